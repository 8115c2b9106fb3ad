/* What Kamailio's own header says of qm's (q_malloc) blocks.
 * Forbidden here: f_malloc.h, which defines the same macros. */
#include "layout_qm.h"
#include "layout.h"

const struct layout layout_qm = {
	.size_back = MG_QM_SIZE_BACK,
	.size_mask = ~0UL,
	.free_back = MG_QM_FREE_BACK,
	.free_mask = ~0UL,
	.file_back = MG_QM_FILE_BACK,
	.func_back = MG_QM_FUNC_BACK,
	.mname_back = MG_QM_MNAME_BACK,
	.line_back = MG_QM_LINE_BACK,
	.block_size = offsetof(struct qm_block, size),
	.block_used = MG_QM_BLOCK_USED,
	.block_real_used = MG_QM_BLOCK_REAL_USED,
	.block_free_fragments = MG_QM_BLOCK_FREE_FRAGMENTS,
};
