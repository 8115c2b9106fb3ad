/* The largest free block that fm's (f_malloc) lists of free fragments tell of.
 * Forbidden here: q_malloc.h, which defines the same macros; the manager's lock. */
#include <stddef.h>
#include "core/mem/f_malloc.h"
#include "largest.h"

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
