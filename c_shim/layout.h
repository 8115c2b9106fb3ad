/* Offsets into the memory managers' own structures, filled by one C file per manager.
 * Forbidden here: any include of Kamailio. */
#ifndef MG_LAYOUT_H
#define MG_LAYOUT_H

/* "back" = bytes before the user pointer; "block" = bytes from the manager's control block */
typedef struct mg_layout
{
	unsigned size_back;
	unsigned long size_mask;
	unsigned free_back;
	unsigned long free_mask;
	unsigned file_back;
	unsigned func_back;
	unsigned mname_back;
	unsigned line_back;
	unsigned block_size;
	unsigned block_used;
	unsigned block_real_used;
	unsigned block_free_fragments;
} mg_layout_t;

extern mg_layout_t mg_layout_fm;
extern mg_layout_t mg_layout_qm;

unsigned long mg_fm_largest_free(void *block);
unsigned long mg_qm_largest_free(void *block);

#endif
