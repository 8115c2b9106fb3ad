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
