/* Where fm (f_malloc) keeps a block's size, free mark and place of allocation, seen from the user pointer.
 * Forbidden here: q_malloc.h, which defines the same macros. */
#include <stddef.h>
#include "core/mem/f_malloc.h"
#include "layout.h"

#define BACK(field) ((unsigned)(sizeof(struct fm_frag) - offsetof(struct fm_frag, field)))

/* why this cannot be Rust: f_malloc.h and q_malloc.h cannot be bound together */
mg_layout_t mg_layout_fm = {
	.size_back = BACK(size),
	.size_mask = ~0UL,
	.free_back = BACK(is_free),
	.free_mask = 0xffffffffUL,
	.file_back = BACK(file),
	.func_back = BACK(func),
	.mname_back = BACK(mname),
	.line_back = BACK(line),
	.block_size = offsetof(struct fm_block, size),
	.block_used = offsetof(struct fm_block, used),
	.block_real_used = offsetof(struct fm_block, real_used),
	.block_free_fragments = offsetof(struct fm_block, ffrags),
};

/* why this cannot be Rust: the hash of free fragments has another length and stride per version.
 * Smallest size that the fullest class of free fragments can hold: a lower bound of the largest free block. */
unsigned long mg_fm_largest_free(void *block)
{
	const unsigned long small = F_MALLOC_OPTIMIZE / ROUNDTO;
	struct fm_block *m = (struct fm_block *)block;
	unsigned long h;

	for(h = F_HASH_SIZE - 1; h > 0; h--)
		if(*(volatile unsigned long *)&m->free_hash[h].no > 0)
			return h <= small ? h * ROUNDTO : 1UL << (h - small + F_MALLOC_OPTIMIZE_FACTOR - 1);
	return 0;
}
