/* Kamailio's macros, inlines and variadics as plain functions.
 * Forbidden here: what Rust can say itself. Every function gives its reason in the comment above it. */
#include <string.h>
#include "shim.h"
#include "core/dprint.h"
#include "core/forward.h"
#include "core/parser/msg_parser.h"
#include "core/parser/parse_to.h"
#include "core/parser/parse_uri.h"
#include "core/parser/hf.h"
#include "core/trim.h"
#include "core/parser/contact/parse_contact.h"
#include "core/cfg/cfg_ctx.h"
#include "core/fmsg.h"
#include "core/route.h"
#include "core/action.h"
#include "core/mod_fix.h"
#include "core/msg_translator.h"
#include "core/receive.h"
#include "core/daemonize.h"
#include "core/globals.h"
#include "core/socket_info.h"
#include "core/tcp_info.h"
#include "core/data_lump_rpl.h"
#include "modules/sl/sl.h"
#include "modules/tm/tm_load.h"
#include "modules/usrloc/usrloc.h"
#include "modules/usrloc/hslot.h"

/* pkg_malloc() is a macro that adds the place of the call */
void *mg_pkg_take(size_t size)
{
	return pkg_malloc(size);
}

/* as above */
void mg_pkg_give(void *block)
{
	pkg_free(block);
}

/* is_printable() and LOG() are macros around per-module log levels */
int mg_log_wanted(int level)
{
	return is_printable(level);
}

/* LOG() is a macro; the text is never used as a format */
void mg_log(int level, const char *text, int length)
{
	LOG(level, "%.*s\n", length, text);
}

/* receive_info_t holds unions and macros; one copy per message keeps Rust free of them */
static void view_source(struct receive_info *rcv, mg_message_t *view)
{
	view->received = rcv;
	view->source_length = rcv->src_ip.len == 16 ? 16 : 4;
	memcpy(view->source, rcv->src_ip.u.addr, view->source_length);
	view->source_port = rcv->src_port;
	view->is_udp = rcv->proto == PROTO_UDP;
}

/* id counts the messages of the process that received it (core/receive.c); a suspended one keeps both elsewhere */
static unsigned long long name_of(struct sip_msg *msg)
{
	return (unsigned long long)msg->pid << 32 | msg->id;
}

/* sip_msg_t changes between versions */
void mg_message_view(struct sip_msg *msg, mg_message_t *view)
{
	view->text = msg->buf;
	view->length = msg->len;
	view->is_request = msg->first_line.type == SIP_REQUEST;
	view->may_reply = !(msg->msg_flags & FL_MSG_NOREPLY);
	view->is_real = msg->rcv.bind_address != NULL;
	view->message = name_of(msg);
	view_source(&msg->rcv, view);
}

/* SREV_NET_DGRAM_IN passes void*[3]: buffer, length, receive_info (core/udp_server.c) */
void mg_datagram_view(void *data, mg_message_t *view)
{
	void **parts = (void **)data;

	view->text = (const char *)parts[0];
	view->length = *(int *)parts[1];
	view->is_request = 1;
	view->may_reply = 1;
	view->is_real = 1;
	view->message = 0;
	view_source((struct receive_info *)parts[2], view);
}

/* headers are the parser's own list; its macros and their flags differ between versions */
static str body_of(struct hdr_field *header)
{
	str none = {NULL, 0};

	return header != NULL ? header->body : none;
}

/* the flag is a macro; what another process may have cloned into shm must not get this one's pkg */
static int may_parse(struct sip_msg *msg)
{
	return !(msg->msg_flags & FL_SHM_CLONE);
}

/* flags are macros (the last one has all bits); all headers of a message, parsed now or before */
static int has_headers(struct sip_msg *msg)
{
	return (msg->parsed_flag & HDR_EOH_F) == HDR_EOH_F || (may_parse(msg) && parse_headers(msg, HDR_EOH_F, 0) >= 0);
}

/* as above: To's parts, which every transaction needs parsed anyway */
static void view_to(struct sip_msg *msg, mg_register_t *view)
{
	struct sip_uri uri;

	if(msg->to->parsed == NULL && (!may_parse(msg) || parse_to_header(msg) < 0 || msg->to->parsed == NULL))
		return;
	view->to_uri = get_to(msg)->uri;
	view->to_tag = get_to(msg)->tag_value;
	if(parse_uri(view->to_uri.s, view->to_uri.len, &uri) < 0)
		return;
	view->to_user = uri.user;
	view->to_host = uri.host;
}

/* the whole message is parsed as registrar/sip_msg.c parse_message() does it; 0: no REGISTER, or not readable */
int mg_register_view(struct sip_msg *msg, mg_register_t *view)
{
	memset(view, 0, sizeof(*view));
	if(msg->first_line.type != SIP_REQUEST || msg->REQ_METHOD != METHOD_REGISTER)
		return 0;
	if(!has_headers(msg) || msg->h_via1 == NULL || msg->to == NULL)
		return 0;
	view->ruri = msg->first_line.u.request.uri;
	view->first_via.s = msg->h_via1->name.s;
	view->first_via.len = (int)(msg->buf + msg->len - msg->h_via1->name.s);
	view->from = body_of(msg->from);
	view->to = body_of(msg->to);
	view->call_id = body_of(msg->callid);
	view->cseq = body_of(msg->cseq);
	view->expires = body_of(msg->expires);
	view->has_expires = msg->expires != NULL;
	view->has_credentials = msg->authorization != NULL || msg->proxy_auth != NULL;
	view_to(msg, view);
	return 1;
}

/* as above, of a reply */
int mg_reply_view(struct sip_msg *msg, mg_register_t *view)
{
	memset(view, 0, sizeof(*view));
	if(!has_headers(msg) || msg->callid == NULL || msg->cseq == NULL)
		return 0;
	view->call_id = body_of(msg->callid);
	view->cseq = body_of(msg->cseq);
	view->expires = body_of(msg->expires);
	view->has_expires = msg->expires != NULL;
	return 1;
}

/* the parameter is a structure of the parser's */
static const str *text_of(param_t *parameter)
{
	static const str none = {NULL, 0};

	return parameter != NULL ? &parameter->body : &none;
}

/* one header's contacts, as parse_contact() reads them; the list is not left at the header, which may lie in shm. 0: not
 * readable */
static int each_contact(str body, mg_asked_f each, void *closure)
{
	static const str star = {"*", 1};
	contact_t *c, *list = NULL;

	trim_leading(&body);
	if(body.len > 0 && body.s[0] == '*') {
		each(closure, &star, text_of(NULL), text_of(NULL), text_of(NULL));
		return 1;
	}
	if(body.len <= 0 || parse_contacts(&body, &list) < 0)
		return 0;
	for(c = list; c != NULL; c = c->next)
		each(closure, &c->uri, text_of(c->expires), text_of(c->instance), text_of(c->reg_id));
	free_contacts(&list);
	return 1;
}

/* contact_t is the parser's; 0 when a Contact header cannot be read */
int mg_contacts(struct sip_msg *msg, mg_asked_f each, void *closure)
{
	struct hdr_field *header;

	for(header = msg->headers; header != NULL; header = header->next)
		if(header->type == HDR_CONTACT_T && !each_contact(header->body, each, closure))
			return 0;
	return 1;
}

/* the parser's list begins with a header's last contact or with its first one, by version: it is asked */
int mg_is_last_contact_first(void)
{
	static char text[] = "<sip:1@h>,<sip:2@h>";
	str body = {text, sizeof(text) - 1};
	contact_t *list = NULL;
	int is_last;

	if(parse_contacts(&body, &list) < 0)
		return 0;
	is_last = list->uri.s[4] == '2';
	free_contacts(&list);
	return is_last;
}

/* msg_send_buffer() is inline; flag 1 skips the events, which would copy the buffer into pkg.
 * via_port > 0: answer there instead of the source port (RFC 3261 18.2.2 without rport) */
int mg_send_reply(struct receive_info *received, int via_port, char *text, int length)
{
	struct dest_info dst;

	init_dest_info(&dst);
	init_dst_from_rcv(&dst, received);
	if(via_port > 0 && received->proto == PROTO_UDP)
		su_setport(&dst.to, via_port);
	return msg_send_buffer(&dst, text, length, 1);
}

/* cfg_register_child() has another return type per version; a process of our own is announced in mod_init */
int mg_register_process(void)
{
	if(register_procs(1) < 0)
		return -1;
	cfg_register_child(1);
	return 0;
}

static usrloc_api_t usrloc;
static int usrloc_bound;

/* usrloc exports its binding function under a name and a function type of its own header */
int mg_usrloc_bind(void)
{
	bind_usrloc_t bind = (bind_usrloc_t)find_export("ul_bind_usrloc", 1, 0);

	usrloc_bound = bind != NULL && bind(&usrloc) >= 0;
	return usrloc_bound;
}

/* usrloc_api_t stays in C */
int mg_usrloc_db_mode(void)
{
	return usrloc_bound ? usrloc.db_mode : -1;
}

/* as above */
int mg_usrloc_use_domain(void)
{
	return usrloc_bound && usrloc.use_domain;
}

static mg_binding_f binding_watcher;

/* ucontact_t stays in C */
static void view_stored(ucontact_t *c, mg_stored_t *view)
{
	static const str none = {NULL, 0};

	view->aor = c->aor != NULL ? *c->aor : none;
	view->uri = c->c;
	view->call_id = c->callid;
	view->path = c->path;
	view->instance = c->instance;
	view->reg_id = c->reg_id;
	view->expires = (long)c->expires;
	view->is_alone = c->prev == NULL && c->next == NULL;
}

/* as above */
static void on_binding(ucontact_t *c, int type, void *param)
{
	mg_stored_t view;

	(void)param;
	if(c->aor == NULL)
		return;
	view_stored(c, &view);
	binding_watcher(type, &view);
}

/* the callback type is usrloc's */
int mg_usrloc_watch(mg_binding_f callback)
{
	int all = UL_CONTACT_INSERT | UL_CONTACT_UPDATE | UL_CONTACT_DELETE | UL_CONTACT_EXPIRE;

	binding_watcher = callback;
	return usrloc_bound && usrloc.register_ulcb(all, on_binding, NULL) == 1;
}

/* records are read under usrloc's own lock, which only its interface can take; nothing is allocated */
int mg_usrloc_contacts(const char *domain, const char *aor, int aor_length, mg_contact_f each, void *closure)
{
	str key = {(char *)aor, aor_length};
	udomain_t *d = NULL;
	urecord_t *r = NULL;
	ucontact_t *c;
	mg_stored_t view;

	if(!usrloc_bound || usrloc.get_udomain(domain, &d) != 0)
		return -1;
	usrloc.lock_udomain(d, &key);
	if(usrloc.get_urecord(d, &key, &r) == 0) {
		for(c = r->contacts; c; c = c->next) {
			view_stored(c, &view);
			if(!each(closure, &view))
				break;
		}
		usrloc.release_urecord(r);
	}
	usrloc.unlock_udomain(d, &key);
	return r != NULL;
}

/* the slots are usrloc's own; each is locked as usrloc/udomain.c lock_ulslot() does it. -1: there are no more */
int mg_usrloc_slot(const char *domain, int slot, mg_contact_f each, void *closure)
{
	udomain_t *d = NULL;
	urecord_t *r;
	ucontact_t *c;
	mg_stored_t view;

	if(!usrloc_bound || usrloc.get_udomain(domain, &d) != 0 || slot < 0 || slot >= d->size)
		return -1;
	rec_lock_get(&d->table[slot].rlock);
	for(r = d->table[slot].first; r != NULL; r = r->next)
		for(c = r->contacts; c != NULL; c = c->next) {
			view_stored(c, &view);
			each(closure, &view);
		}
	rec_lock_release(&d->table[slot].rlock);
	return 0;
}

static mg_answer_f answer_watcher;

/* the request's buffer and name, and a reply to it. Only a 2xx is the reply that has just come (tm keeps no other one) */
static void tell_answer(struct sip_msg *req, str *reply, int status, enum mg_voucher voucher, struct sip_msg *rpl)
{
	struct sip_msg *received = status >= 200 && status < 300 ? rpl : NULL;
	mg_answer_t answer = {req, received, reply->s, reply->len, req->buf, req->len, status, voucher, name_of(req)};

	answer_watcher(&answer);
}

/* sl's parameter struct belongs to its header */
static void on_reply(sl_cbp_t *p)
{
	if(p->reply != NULL && p->req != NULL && p->req->REQ_METHOD == METHOD_REGISTER)
		tell_answer(p->req, p->reply, p->code, MG_OWN, NULL);
}

static sl_api_t sl;

/* the binding function and the list element are sl's */
int mg_sl_watch(mg_answer_f callback)
{
	static sl_cbelem_t element;
	bind_sl_f bind = (bind_sl_f)find_export("bind_sl", 0, 0);

	if(bind == NULL || bind(&sl) < 0)
		return 0;
	answer_watcher = callback;
	element.type = SLCB_REPLY_READY;
	element.cbf = on_reply;
	return sl.register_cb(&element) >= 0;
}

/* freply() answers through the transaction where there is one; without sl the caller sends its own reply (0) */
int mg_script_reply(struct sip_msg *msg, int code, const char *reason, const char *header, int length)
{
	str text = {(char *)reason, strlen(reason)};

	if(sl.freply == NULL || add_lump_rpl2(msg, (char *)header, length, LUMP_RPL_HDR) == NULL)
		return 0;
	return sl.freply(msg, code, &text) >= 0 ? 1 : -1;
}

static tm_api_t tm;
static mg_transaction_f transaction_watcher;

/* whether a relayed reply came from where the branch that it answers was sent to; su2ip_addr() and the address structs
 * are the core's. Over a connection only the address tells: who opened it chose the port */
static int is_from_target(struct cell *t, struct sip_msg *rpl)
{
	struct dest_info *sent;
	struct ip_addr target;

	if(t->relayed_reply_branch < 0 || t->relayed_reply_branch >= t->nr_of_outgoings)
		return 0;
	sent = &t->uac[t->relayed_reply_branch].request.dst;
	su2ip_addr(&target, &sent->to);
	return sent->proto == rpl->rcv.proto && ip_addr_cmp(&target, &rpl->rcv.src_ip)
		   && (sent->proto != PROTO_UDP || su_getport(&sent->to) == rpl->rcv.src_port);
}

/* FAKED_REPLY is a macro: a reply that this server made */
static void on_tm_reply(struct cell *t, int type, struct tmcb_params *p)
{
	enum mg_voucher voucher = MG_OWN;

	(void)type;
	if(p->send_buf.s == NULL || p->req == NULL || p->rpl == NULL || p->code < 200)
		return;
	if(p->rpl != FAKED_REPLY)
		voucher = is_from_target(t, p->rpl) ? MG_REGISTRAR : MG_ELSEWHERE;
	tell_answer(p->req, &p->send_buf, p->code, voucher, voucher == MG_OWN ? NULL : p->rpl);
}

/* tm's callbacks are kept per transaction; only those of REGISTERs that were received get one. RESPONSE_READY comes
 * before the reply is sent, so that the client's next request finds what it taught */
static void on_tm_request(struct cell *t, int type, struct tmcb_params *p)
{
	(void)type;
	if(p->req == NULL || p->req->REQ_METHOD != METHOD_REGISTER)
		return;
	transaction_watcher(name_of(p->req));
	tm.register_tmcb(p->req, t, TMCB_RESPONSE_READY, on_tm_reply, NULL, NULL);
}

/* tm_api_t stays in C; 0 without tm, -1 when it refuses */
int mg_tm_watch(mg_answer_f answer, mg_transaction_f transaction)
{
	load_tm_f load = (load_tm_f)find_export("load_tm", NO_SCRIPT, 0);

	if(load == NULL || load(&tm) < 0)
		return 0;
	answer_watcher = answer;
	transaction_watcher = transaction;
	return tm.register_tmcb(NULL, NULL, TMCB_REQUEST_IN, on_tm_request, NULL, NULL) > 0 ? 1 : -1;
}

/* T_UNDEFINED is a macro; tm sets it when a message begins and when it ends */
static struct cell *transaction(void)
{
	struct cell *t = tm.t_gett != NULL ? tm.t_gett() : NULL;

	return t == T_UNDEFINED ? NULL : t;
}

/* as above */
int mg_tm_has(struct sip_msg *msg)
{
	struct cell *t = transaction();

	return t != NULL && t->uas.request != NULL && name_of(t->uas.request) == name_of(msg);
}

/* REQ_METHOD is a macro */
int mg_tm_in_register(void)
{
	struct cell *t = transaction();

	return t != NULL && t->uas.request != NULL && t->uas.request->REQ_METHOD == METHOD_REGISTER;
}

/* my_pid() is a macro or an inline by version: a suspended message goes on in another process than received it */
int mg_is_received_here(struct sip_msg *msg)
{
	return msg->pid == my_pid();
}

/* the configuration framework's context and value types are its own */
static int read_cfg(const char *group, const char *name, unsigned type, void **value)
{
	static cfg_ctx_t *ctx;
	str g = {(char *)group, strlen(group)};
	str n = {(char *)name, strlen(name)};
	unsigned found = 0;

	if(ctx == NULL && cfg_register_ctx(&ctx, NULL) < 0)
		return 0;
	return cfg_get_by_name(ctx, &g, NULL, &n, value, &found) == 0 && found == type;
}

/* as above */
long mg_cfg_int(const char *group, const char *name, long fallback)
{
	void *value = NULL;

	return read_cfg(group, name, CFG_VAR_INT, &value) ? (long)(int)(long)value : fallback;
}

/* as above; returns the length, 0 when there is none */
int mg_cfg_text(const char *group, const char *name, char *out, int size)
{
	void *value = NULL;
	str *text;

	if(!read_cfg(group, name, CFG_VAR_STR, &value) || value == NULL)
		return 0;
	text = (str *)value;
	if(text->s == NULL || text->len <= 0 || text->len > size)
		return 0;
	memcpy(out, text->s, text->len);
	return text->len;
}

/* module_loaded() differs in constness between versions */
int mg_has_module(const char *name)
{
	return module_loaded((char *)name);
}

/* a parameter that has no setter function is a plain int of its module; the list of modules is the core's */
long mg_module_int(const char *module, const char *name, long fallback)
{
	struct sr_module *found = find_module_by_name((char *)module);
	modparam_t type = 0;
	int *value;

	if(found == NULL)
		return fallback;
	value = (int *)find_param_export(found, (char *)name, PARAM_INT, &type);
	return value != NULL && !(type & PARAM_USE_FUNC) ? *value : fallback;
}

/* the counters are static in core/tcp_main.c and not there without TCP */
int mg_tcp_connections(void)
{
	struct tcp_gen_info info;
	if(tcp_disable)
		return 0;
	tcp_get_info(&info);
	return info.tcp_connections_no;
}

/* REQ_METHOD is a macro; sip_msg's later fields lie elsewhere in each version. To this server itself: no user, and an
 * address that it listens on or is known by */
int mg_is_options_to_self(struct sip_msg *msg)
{
	if(msg->first_line.type != SIP_REQUEST || msg->REQ_METHOD != METHOD_OPTIONS || parse_sip_msg_uri(msg) < 0)
		return 0;
	return msg->parsed_uri.user.len == 0 && check_self(&msg->parsed_uri.host, msg->parsed_uri.port_no, 0) == 1;
}

/* a handle is a struct of bit fields; -1: there is no such statistic */
long mg_counter_value(const char *group, const char *name)
{
	counter_handle_t handle;

	return counter_lookup(&handle, group, name) < 0 ? -1 : (long)counter_get_val(handle);
}

/* not const in the core's header */
const char *mg_cfg_file(void)
{
	return cfg_file;
}

/* the name differs from the parameter's */
int mg_ip_free_bind(void)
{
	return _sr_ip_free_bind;
}

/* the callback's argument order is counters.h's */
static void (*each_counter)(void *closure, str *name);

static void on_counter(void *closure, str *group, str *name, counter_handle_t handle)
{
	(void)group;
	(void)handle;
	each_counter(closure, name);
}

/* as above */
void mg_each_counter(const char *group, void (*each)(void *closure, str *name), void *closure)
{
	each_counter = each;
	counter_iterate_grp_vars(group, on_counter, closure);
}

/* struct action is full of unions; only its place in the configuration is wanted */
const void *mg_cfg_action(void)
{
	return get_cfg_crt_action();
}

/* as above; returns the line */
int mg_cfg_place(const void *action, const char **file, const char **route)
{
	const struct action *a = (const struct action *)action;

	*file = a->cfile;
	*route = a->rname;
	return a->cline;
}

/* the lists of routes are the script interpreter's; any action will do */
const void *mg_cfg_any_action(void)
{
	struct route_list *lists[] = {&main_rt, &onreply_rt, &event_rt, &failure_rt, &branch_rt};
	unsigned i;
	int j;

	for(i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		for(j = 0; j < lists[i]->entries; j++)
			if(lists[i]->rlist != NULL && lists[i]->rlist[j] != NULL)
				return lists[i]->rlist[j];
	return NULL;
}

/* event routes live in a table of the script interpreter */
int mg_event_route_exists(const char *name)
{
	int rt = route_lookup(&event_rt, (char *)name);

	return rt >= 0 && event_rt.rlist[rt] != NULL;
}

/* faked messages are needed to run any route outside SIP traffic */
int mg_event_routes_init(void)
{
	return faked_msg_init();
}

/* the route type is a global behind macros; both kinds of route need it set and put back */
static int run_as_event(int (*run)(sip_msg_t *msg, const char *route, const char *callback), const char *route,
		const char *callback)
{
	int saved = get_route_type();
	int done;

	set_route_type(EVENT_ROUTE);
	done = run(faked_msg_next(), route, callback);
	set_route_type(saved);
	ksr_msg_env_reset();
	return done;
}

/* KEMI engines are called with str arguments of their own convention */
static int run_kemi(sip_msg_t *msg, const char *route, const char *callback)
{
	str function = {(char *)callback, strlen(callback)};
	str event = {(char *)route, strlen(route)};
	sr_kemi_eng_t *engine = sr_kemi_eng_get();

	return engine != NULL && sr_kemi_route(engine, msg, EVENT_ROUTE, &function, &event) >= 0;
}

/* init_run_actions_ctx() is a macro */
static int run_native(sip_msg_t *msg, const char *route, const char *callback)
{
	struct run_act_ctx ctx;

	(void)callback;
	init_run_actions_ctx(&ctx);
	return run_top_route(event_rt.rlist[route_lookup(&event_rt, (char *)route)], msg, &ctx) >= 0;
}

/* as above; without a native route, the KEMI function that the configuration names */
int mg_event_route_run(const char *route, const char *callback)
{
	if(mg_event_route_exists(route))
		return run_as_event(run_native, route, callback);
	return run_as_event(run_kemi, route, callback);
}

/* the list's element type is Kamailio's; before our own registration it holds what was loaded earlier */
/* the cfg group whose integers are read and written in the shared configuration, past every process's own view of it */
static cfg_group_t *own_group;

int mg_cfg_find(const char *group)
{
	own_group = cfg_lookup_group((char *)group, strlen(group));
	return own_group != NULL;
}

/* which block is the shared configuration now */
unsigned long long mg_cfg_block(void)
{
	return cfg_global ? (unsigned long long)*(cfg_block_t *volatile *)cfg_global : 0;
}

/* 0: there is none yet, or it was replaced meanwhile (a block that was freed may have been read) */
int mg_cfg_read(int *out, int count)
{
	cfg_block_t *block = cfg_global ? *(cfg_block_t *volatile *)cfg_global : NULL;

	if(!own_group || !block)
		return 0;
	memcpy(out, CFG_GROUP_DATA(block, own_group), count * sizeof(int));
	__sync_synchronize();
	return *(cfg_block_t *volatile *)cfg_global == block;
}

void mg_cfg_write(int at, int value)
{
	cfg_block_t *block = cfg_global ? *(cfg_block_t *volatile *)cfg_global : NULL;

	if(own_group && block)
		((volatile int *)CFG_GROUP_DATA(block, own_group))[at] = value;
}

int mg_any_module_loaded(void)
{
	return get_loaded_modules() != NULL;
}

static mg_pv_key_f pv_key;
static mg_pv_value_f pv_value;

/* pv_spec_t holds unions */
static int parse_pv(pv_spec_p spec, str *name)
{
	int key = pv_key(name->s, name->len);

	spec->pvp.pvn.type = PV_NAME_INTSTR;
	spec->pvp.pvn.u.isname.type = 0;
	spec->pvp.pvn.u.isname.name.n = key;
	return key < 0 ? -1 : 0;
}

/* pv_value_t.ri is int in 5.6 and long from 5.7 on; the helpers know */
static int get_pv(sip_msg_t *msg, pv_param_t *param, pv_value_t *result)
{
	unsigned long number = 0;
	str text = {NULL, 0};
	int kind = pv_value(param->pvn.u.isname.name.n, &number, (const char **)&text.s, &text.len);

	if(kind == 1)
		return pv_get_uintval(msg, param, result, number);
	return kind == 2 ? pv_get_strval(msg, param, result, &text) : pv_get_null(msg, param, result);
}

/* the table's first field is a str with a literal's length */
pv_export_t *mg_pv_table(mg_pv_key_f key, mg_pv_value_f value)
{
	static pv_export_t table[] = {
			{{"memguard", sizeof("memguard") - 1}, PVT_OTHER, get_pv, NULL, parse_pv, NULL, NULL, 0},
			{{NULL, 0}, 0, NULL, NULL, NULL, NULL, NULL, 0}};

	pv_key = key;
	pv_value = value;
	return table;
}

/* rpc_t's members are variadic: from here to the end */
int mg_rpc_argument(rpc_t *rpc, void *ctx, char **text)
{
	return rpc->scan(ctx, "*.s", text) == 1;
}

void mg_rpc_fault(rpc_t *rpc, void *ctx, int code, const char *text)
{
	rpc->fault(ctx, code, "%s", text);
}

int mg_rpc_struct(rpc_t *rpc, void *ctx, void **out)
{
	return rpc->add(ctx, "{", out);
}

int mg_rpc_text(rpc_t *rpc, void *ctx, const char *value)
{
	return rpc->add(ctx, "s", value);
}

int mg_rpc_put_struct(rpc_t *rpc, void *at, const char *name, void **out)
{
	return rpc->struct_add(at, "{", name, out);
}

int mg_rpc_put_list(rpc_t *rpc, void *at, const char *name, void **out)
{
	return rpc->struct_add(at, "[", name, out);
}

int mg_rpc_put_text(rpc_t *rpc, void *at, const char *name, const char *value)
{
	return rpc->struct_add(at, "s", name, value);
}

int mg_rpc_put_int(rpc_t *rpc, void *at, const char *name, int value)
{
	return rpc->struct_add(at, "d", name, value);
}

int mg_rpc_put_count(rpc_t *rpc, void *at, const char *name, unsigned long long value)
{
	return rpc->struct_add(at, "J", name, value);
}

int mg_rpc_put_signed(rpc_t *rpc, void *at, const char *name, long long value)
{
	return rpc->struct_add(at, "L", name, value);
}

int mg_rpc_put_float(rpc_t *rpc, void *at, const char *name, double value)
{
	return rpc->struct_add(at, "f", name, value);
}

int mg_rpc_list_struct(rpc_t *rpc, void *list, void **out)
{
	return rpc->array_add(list, "{", out);
}

int mg_rpc_list_text(rpc_t *rpc, void *list, const char *value)
{
	return rpc->array_add(list, "s", value);
}

int mg_rpc_list_count(rpc_t *rpc, void *list, unsigned long long value)
{
	return rpc->array_add(list, "J", value);
}

int mg_rpc_list_float(rpc_t *rpc, void *list, double value)
{
	return rpc->array_add(list, "f", value);
}

/* the flag's name changed from RET_ARRAY in 5.8 (core/rpc.h) */
unsigned mg_rpc_returns_list(void)
{
#ifdef RPC_RET_ARRAY
	return RPC_RET_ARRAY;
#else
	return RET_ARRAY;
#endif
}

/* one socket's addresses: its own and, with SCTP, further ones */
static void each_address(struct socket_info *si, int kind, mg_listening_f each, void *closure)
{
	struct addr_info *more;
	int is_virtual = (si->flags & SI_IS_VIRTUAL) != 0;

	each(closure, kind, si->address.u.addr, si->address.len, si->port_no, is_virtual);
	for(more = si->addr_info_lst; more != NULL; more = more->next)
		each(closure, kind, more->address.u.addr, more->address.len, si->port_no, is_virtual);
}

/* socket_info is laid out differently in each version; what is switched off is not opened */
void mg_each_listening(mg_listening_f each, void *closure)
{
	const unsigned short kinds[] = {PROTO_UDP, PROTO_TCP, PROTO_TLS, PROTO_SCTP};
	struct socket_info **list;
	struct socket_info *si;
	int kind;

	for(kind = 0; kind < (int)(sizeof(kinds) / sizeof(kinds[0])); kind++) {
		if((kinds[kind] == PROTO_TCP && tcp_disable) || (kinds[kind] == PROTO_TLS && (tcp_disable || tls_disable)))
			continue;
		list = get_sock_info_list(kinds[kind]);
		for(si = list != NULL ? *list : NULL; si != NULL; si = si->next)
			each_address(si, kind, each, closure);
	}
}

/* tlsf's structures are private to its C file; this helper is exported by the server */
size_t tlsf_block_size(void *pointer);

size_t mg_tlsf_block_size(void *pointer)
{
	return tlsf_block_size(pointer);
}
