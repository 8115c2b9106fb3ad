/* Where qm (q_malloc) keeps a block's size, free mark and place of allocation, seen from the user pointer.
 * Forbidden here: f_malloc.h, which defines the same macros. */
#ifndef MG_LAYOUT_QM_H
#define MG_LAYOUT_QM_H
#include <stddef.h>
#include "core/mem/q_malloc.h"

#define MG_QM_BACK(field) (sizeof(struct qm_frag) - offsetof(struct qm_frag, field))

/* why this cannot be Rust: f_malloc.h and q_malloc.h cannot be bound together.
 * BACK: bytes before the user pointer; BLOCK: bytes from the manager's control block */
enum mg_layout_qm
{
	MG_QM_SIZE_BACK = MG_QM_BACK(size),
	MG_QM_FREE_BACK = MG_QM_BACK(u),
	MG_QM_FILE_BACK = MG_QM_BACK(file),
	MG_QM_FUNC_BACK = MG_QM_BACK(func),
	MG_QM_MNAME_BACK = MG_QM_BACK(mname),
	MG_QM_LINE_BACK = MG_QM_BACK(line),
	MG_QM_BLOCK_USED = offsetof(struct qm_block, used),
	MG_QM_BLOCK_REAL_USED = offsetof(struct qm_block, real_used),
	MG_QM_BLOCK_FREE_FRAGMENTS = offsetof(struct qm_block, ffrags),
};

#endif
