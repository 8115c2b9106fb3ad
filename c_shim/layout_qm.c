/* Where qm (q_malloc) keeps a block's size, free mark and place of allocation, seen from the user pointer.
 * Forbidden here: f_malloc.h, which defines the same macros. */
#include <stddef.h>
#include "core/mem/q_malloc.h"
#include "layout.h"

#define BACK(field) ((unsigned)(sizeof(struct qm_frag) - offsetof(struct qm_frag, field)))

/* why this cannot be Rust: f_malloc.h and q_malloc.h cannot be bound together */
mg_layout_t mg_layout_qm = {
	.size_back = BACK(size),
	.size_mask = ~0UL,
	.free_back = BACK(u),
	.free_mask = ~0UL,
	.file_back = BACK(file),
	.func_back = BACK(func),
	.mname_back = BACK(mname),
	.line_back = BACK(line),
	.block_size = offsetof(struct qm_block, size),
	.block_used = offsetof(struct qm_block, used),
	.block_real_used = offsetof(struct qm_block, real_used),
	.block_free_fragments = offsetof(struct qm_block, ffrags),
};

/* why this cannot be Rust: the hash of free fragments has another length and stride per version.
 * Smallest size that the fullest class of free fragments can hold: a lower bound of the largest free block. */
unsigned long mg_qm_largest_free(void *block)
{
	const unsigned long small = QM_MALLOC_OPTIMIZE / ROUNDTO;
	struct qm_block *m = (struct qm_block *)block;
	unsigned long h;

	for(h = QM_HASH_SIZE - 1; h > 0; h--)
		if(*(volatile unsigned long *)&m->free_hash[h].no > 0)
			return h <= small ? h * ROUNDTO : 1UL << (h - small + QM_MALLOC_OPTIMIZE_FACTOR - 1);
	return 0;
}
