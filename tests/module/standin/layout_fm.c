/* What Kamailio's own header says of fm's (f_malloc) blocks.
 * Forbidden here: q_malloc.h, which defines the same macros. */
#include "layout_fm.h"
#include "layout.h"

const struct layout layout_fm = {
	.size_back = MG_FM_SIZE_BACK,
	.size_mask = ~0UL,
	.free_back = MG_FM_FREE_BACK,
	.free_mask = 0xffffffffUL,
	.file_back = MG_FM_FILE_BACK,
	.func_back = MG_FM_FUNC_BACK,
	.mname_back = MG_FM_MNAME_BACK,
	.line_back = MG_FM_LINE_BACK,
	.block_size = offsetof(struct fm_block, size),
	.block_used = MG_FM_BLOCK_USED,
	.block_real_used = MG_FM_BLOCK_REAL_USED,
	.block_free_fragments = MG_FM_BLOCK_FREE_FRAGMENTS,
};
