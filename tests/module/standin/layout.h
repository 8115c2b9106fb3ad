/* Where a manager keeps what of a block and of its pool: one file per manager fills it.
 * Forbidden here: any include of Kamailio. */
#ifndef STANDIN_LAYOUT_H
#define STANDIN_LAYOUT_H

/* "back" = bytes before the user pointer; "block" = bytes from the manager's control block */
struct layout {
	unsigned size_back;
	unsigned long size_mask;
	unsigned free_back;
	unsigned long free_mask;
	unsigned file_back, func_back, mname_back, line_back;
	unsigned block_size, block_used, block_real_used, block_free_fragments;
};

extern const struct layout layout_fm, layout_qm;

#endif
