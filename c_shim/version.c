/* The strings Kamailio compares when it loads a module.
 * Forbidden here: any other include; the memory managers' headers would change the flag string. */
#include "core/sr_module.h"

/* why this cannot be Rust: the strings are macros of Kamailio's build */
char mg_module_version[] = SER_FULL_VERSION;
char mg_module_flags[] = SER_COMPILE_FLAGS;
unsigned int mg_module_interface_ver = MODULE_INTERFACE_VER;
