/* The largest free block by a manager's own lists, one C file per manager.
 * Forbidden here: any include of Kamailio. */
#ifndef MG_LARGEST_H
#define MG_LARGEST_H

unsigned long mg_fm_largest_free(void *block);
unsigned long mg_qm_largest_free(void *block);

#endif
