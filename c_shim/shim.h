/* What Rust may call of Kamailio: macros, inlines, variadics and version-dependent structures behind functions.
 * Forbidden here: decisions, state beyond bound module interfaces, functions longer than ten lines. */
#ifndef MG_SHIM_H
#define MG_SHIM_H

#include <stddef.h>
#include <sys/types.h>
#include "core/sr_module.h"
#include "core/mem/memapi.h"
#include "core/mem/pkg.h"
#include "core/mem/shm.h"
#include "core/globals.h"
#include "core/script_cb.h"
#include "core/events.h"
#include "core/pt.h"
#include "core/counters.h"
#include "core/cfg/cfg.h"
#include "core/cfg/cfg_struct.h"
#include "core/rpc.h"
#include "core/timer_proc.h"
#include "core/pvar.h"
#include "core/kemi.h"
#include "largest.h"

#ifndef DBG_SR_MEMORY
#error "memguard needs a Kamailio built with MEMDBG=1 (DBG_SR_MEMORY), as every distribution's packages are"
#endif
#ifndef PKG_MALLOC
#error "memguard needs a Kamailio built with its own pkg memory (PKG_MALLOC), as every distribution's packages are"
#endif

extern char mg_module_version[];
extern char mg_module_flags[];
extern unsigned int mg_module_interface_ver;

/* a received message as the gate sees it; addresses in network byte order, ports in host byte order */
typedef struct mg_message
{
	const char *text;
	int length;
	int is_request;
	int may_reply; /* 0: the script marked it "no reply" */
	int is_real; /* 0: made up by a module (timer, rtimer, xhttp): it came in on no socket */
	unsigned char source[16];
	int source_length; /* 4 or 16 */
	unsigned short source_port;
	int is_udp;
	struct receive_info *received;
	unsigned long long message; /* which one it is: no two messages of a process that are alive have the same */
} mg_message_t;

/* who vouches that a reply is the answer to a REGISTER */
enum mg_voucher
{
	MG_OWN = 0,       /* this server made it */
	MG_REGISTRAR = 1, /* of its transaction, from where it was sent */
	MG_ELSEWHERE = 2, /* of its transaction, from elsewhere */
};

/* a reply to a REGISTER that is about to be sent (message: mg_message_t's); the messages are Kamailio's own of both, received
 * null unless it is a 2xx that came from elsewhere */
typedef struct mg_answer
{
	struct sip_msg *asked;
	struct sip_msg *received;
	const char *reply;
	int reply_length;
	const char *request;
	int request_length;
	int status;
	unsigned int voucher; /* enum mg_voucher */
	unsigned long long message;
} mg_answer_t;

typedef void (*mg_answer_f)(const mg_answer_t *answer);
/* a REGISTER has become a transaction of tm's */
typedef void (*mg_transaction_f)(unsigned long long message);
/* one contact of the local usrloc; is_alone: its record holds no other */
typedef struct mg_stored
{
	str aor;
	str uri;
	str call_id;
	str path;
	str instance;
	unsigned reg_id;
	long expires;
	int is_alone;
} mg_stored_t;

/* what Kamailio's parser found in a REGISTER; texts may be empty */
typedef struct mg_register
{
	str ruri;
	str first_via; /* from its name to the message's end */
	str from;
	str to;
	str to_uri;
	str to_user; /* of the URI, when it is one; both empty: it is none */
	str to_host;
	str to_tag;
	str call_id;
	str cseq;
	str expires;
	int has_expires;
	int has_credentials;
} mg_register_t;

/* one contact of a local usrloc record */
typedef int (*mg_contact_f)(void *closure, const mg_stored_t *contact);
/* one contact of a REGISTER or its reply as Kamailio's parser sees it; uri "*" alone for all */
typedef void (*mg_asked_f)(void *closure, const str *uri, const str *expires, const str *instance, const str *reg_id);
/* a contact was inserted, updated, deleted or expired in the local usrloc */
typedef void (*mg_binding_f)(int event, const mg_stored_t *contact);

/* number of a pseudo-variable's key, -1 when there is none */
typedef int (*mg_pv_key_f)(const char *name, int length);
/* its value: 1 a number, 2 a text (of static life), 0 none */
typedef int (*mg_pv_value_f)(int key, unsigned long *number, const char **text, int *length);

/* one listen address, 4 or 16 bytes in network byte order: 0 udp, 1 tcp, 2 tls, 3 sctp; virtual: Kamailio may start without it */
typedef void (*mg_listening_f)(
		void *closure, int kind, const unsigned char *address, int length, int port, int is_virtual);

void *mg_pkg_take(size_t size);
void mg_pkg_give(void *block);

int mg_log_wanted(int level);
void mg_log(int level, const char *text, int length);

void mg_message_view(struct sip_msg *msg, mg_message_t *view);
void mg_datagram_view(void *data, mg_message_t *view);
int mg_register_view(struct sip_msg *msg, mg_register_t *view);
int mg_reply_view(struct sip_msg *msg, mg_register_t *view);
int mg_contacts(struct sip_msg *msg, mg_asked_f each, void *closure);
int mg_is_last_contact_first(void);
int mg_send_reply(struct receive_info *received, int via_port, char *text, int length);

int mg_register_process(void);

int mg_usrloc_bind(void);
int mg_usrloc_db_mode(void);
int mg_usrloc_use_domain(void);
int mg_usrloc_watch(mg_binding_f callback);
int mg_usrloc_contacts(const char *domain, const char *aor, int aor_length, mg_contact_f each, void *closure);
int mg_usrloc_slot(const char *domain, int slot, mg_contact_f each, void *closure);
int mg_sl_watch(mg_answer_f callback);
int mg_tm_watch(mg_answer_f answer, mg_transaction_f transaction);
int mg_tm_has(struct sip_msg *msg);
int mg_tm_in_register(void);
int mg_is_received_here(struct sip_msg *msg);
int mg_script_reply(struct sip_msg *msg, int code, const char *reason, const char *header, int length);
long mg_cfg_int(const char *group, const char *name, long fallback);
int mg_cfg_text(const char *group, const char *name, char *out, int size);
int mg_cfg_find(const char *group);
unsigned long long mg_cfg_block(void);
int mg_cfg_read(int *out, int count);
void mg_cfg_write(int at, int value);
int mg_any_module_loaded(void);
int mg_tcp_connections(void);
int mg_is_options_to_self(struct sip_msg *msg);
long mg_counter_value(const char *group, const char *name);
const char *mg_cfg_file(void);
int mg_ip_free_bind(void);
int mg_has_module(const char *name);
long mg_module_int(const char *module, const char *name, long fallback);
void mg_each_counter(const char *group, void (*each)(void *closure, str *name), void *closure);

const void *mg_cfg_action(void);
const void *mg_cfg_any_action(void);
int mg_cfg_place(const void *action, const char **file, const char **route);

int mg_event_route_exists(const char *name);
int mg_event_route_run(const char *route, const char *callback);
int mg_event_routes_init(void);

int mg_rpc_argument(rpc_t *rpc, void *ctx, char **text);
void mg_rpc_fault(rpc_t *rpc, void *ctx, int code, const char *text);
int mg_rpc_struct(rpc_t *rpc, void *ctx, void **out);
int mg_rpc_text(rpc_t *rpc, void *ctx, const char *value);
int mg_rpc_put_struct(rpc_t *rpc, void *at, const char *name, void **out);
int mg_rpc_put_list(rpc_t *rpc, void *at, const char *name, void **out);
int mg_rpc_put_text(rpc_t *rpc, void *at, const char *name, const char *value);
int mg_rpc_put_int(rpc_t *rpc, void *at, const char *name, int value);
int mg_rpc_put_count(rpc_t *rpc, void *at, const char *name, unsigned long long value);
int mg_rpc_put_signed(rpc_t *rpc, void *at, const char *name, long long value);
int mg_rpc_put_float(rpc_t *rpc, void *at, const char *name, double value);
int mg_rpc_list_struct(rpc_t *rpc, void *list, void **out);
int mg_rpc_list_text(rpc_t *rpc, void *list, const char *value);
int mg_rpc_list_count(rpc_t *rpc, void *list, unsigned long long value);
int mg_rpc_list_float(rpc_t *rpc, void *list, double value);

pv_export_t *mg_pv_table(mg_pv_key_f key, mg_pv_value_f value);

void mg_each_listening(mg_listening_f each, void *closure);

unsigned mg_rpc_returns_list(void);
size_t mg_tlsf_block_size(void *pointer);

#endif
