/* Where fm (f_malloc) keeps a block's size, free mark and place of allocation, seen from the user pointer.
 * Forbidden here: q_malloc.h, which defines the same macros. */
#ifndef MG_LAYOUT_FM_H
#define MG_LAYOUT_FM_H
#include <stddef.h>
#include "core/mem/f_malloc.h"

#define MG_FM_BACK(field) (sizeof(struct fm_frag) - offsetof(struct fm_frag, field))

/* why this cannot be Rust: f_malloc.h and q_malloc.h cannot be bound together.
 * BACK: bytes before the user pointer; BLOCK: bytes from the manager's control block */
enum mg_layout_fm
{
	MG_FM_SIZE_BACK = MG_FM_BACK(size),
	MG_FM_FREE_BACK = MG_FM_BACK(is_free),
	MG_FM_FILE_BACK = MG_FM_BACK(file),
	MG_FM_FUNC_BACK = MG_FM_BACK(func),
	MG_FM_MNAME_BACK = MG_FM_BACK(mname),
	MG_FM_LINE_BACK = MG_FM_BACK(line),
	MG_FM_BLOCK_USED = offsetof(struct fm_block, used),
	MG_FM_BLOCK_REAL_USED = offsetof(struct fm_block, real_used),
	MG_FM_BLOCK_FREE_FRAGMENTS = offsetof(struct fm_block, ffrags),
};

#endif
