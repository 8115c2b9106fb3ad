/*
 * A stand-in for Kamailio: a program that loads memguard.so and looks to it like the server, with small pools of its
 * own (pools.h) of which any allocation may fail. It does what it reads, a command per line, and answers each with a
 * line of JSON. Where Kamailio allocates on memguard's behalf, it does so from the same pool, as fallibly.
 * Forbidden here: Kamailio's code (its headers say what the functions look like); sockets.
 */
#define _GNU_SOURCE
#include "core/sr_module.h"

#include <dlfcn.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "core/action.h"
#include "core/cfg/cfg.h"
#include "core/cfg/cfg_ctx.h"
#include "core/cfg/cfg_struct.h"
#include "core/cfg_core.h"
#include "core/counters.h"
#include "core/dprint.h"
#include "core/events.h"
#include "core/fmsg.h"
#include "core/globals.h"
#include "core/kemi.h"
#include "core/mem/pkg.h"
#include "core/mem/shm.h"
#include "core/mod_fix.h"
#include "core/pt.h"
#include "core/pvar.h"
#include "core/receive.h"
#include "core/route.h"
#include "core/rpc.h"
#include "core/script_cb.h"
#include "core/tcp_info.h"
#include "core/timer_proc.h"

#include "pools.h"
#include "answers.h"
#include "registrar.h"
#include "moments.h"

#define PROCESSES 600 /* more than memguard has rows for */
#define LINE 70000

static module_exports_t *its;

/* ------------------------------------------------------------------------------ what memguard looks up */

sr_pkg_api_t _pkg_root;
sr_shm_api_t _shm_root;
unsigned long pkg_mem_size, shm_mem_size;
int process_no;
int *process_count;
struct process_table *pt;
int uid, gid;
int tcp_disable = 1, tls_disable = 1, sctp_disable = 1, tcp_connection_match, route_type;
int _sr_ip_free_bind;
void *core_cfg, *tcp_cfg;
struct route_list main_rt, onreply_rt, failure_rt, branch_rt, event_rt;
ksr_slog_f _ksr_slog_func;
km_log_f _km_log_func;
volatile int dprint_crit;
int log_stderr = 1, log_color;
str *log_prefix_val;
struct log_level_info log_level_info[] = {{"ALERT", 1}, {"BUG", 2}, {"CRITICAL", 2}, {"", 0}, {"ERROR", 3},
		{"WARNING", 4}, {"NOTICE", 5}, {"INFO", 6}, {"DEBUG", 7}};

int my_pid(void) { return getpid(); }
int get_debug_level(char *mname, int mnlen) { return L_NOTICE; }
int get_debug_facility(char *mname, int mnlen) { return 0; }
void dprint_color(int level) {}
void dprint_color_reset(void) {}

/* What other modules would be asked for is in registrar.h. */
struct sr_module *find_module_by_name(char *name) { return NULL; }
void *find_param_export(struct sr_module *module, char *name, modparam_t mask, modparam_t *type) { return NULL; }
sr_module_t *get_loaded_modules(void) { return NULL; }
int cfg_get_by_name(cfg_ctx_t *ctx, str *group, unsigned int *id, str *name, void **value, unsigned int *type)
{
	return -1;
}
int route_lookup(struct route_list *routes, char *name) { return -1; }
int faked_msg_init(void) { return 0; }
int cfg_child_init(void) { return 0; }
struct socket_info **get_sock_info_list(unsigned short proto) { return NULL; }
void cfg_register_child(int count) {}
int register_procs(int count) { return 0; }
sr_kemi_eng_t *sr_kemi_eng_get(void) { return NULL; }
char *cfg_file = "kamailio.cfg";
int counter_lookup(counter_handle_t *handle, const char *group, const char *name) { return -1; }
counter_val_t counter_get_val(counter_handle_t handle) { return 0; }
int sr_event_enabled(int type) { return 0; }
cfg_action_t *get_cfg_crt_action(void) { return NULL; }
/* no shared configuration: values live where the module has them */
cfg_block_t **cfg_global;
cfg_group_t *cfg_lookup_group(char *name, int length) { return NULL; }

/* Kamailio's parser, which is asked about forms that memguard does not read itself: it reads none of them */
#define REFUSES(symbol)                                      \
	int refuses_##symbol(void) __asm__(#symbol);             \
	int refuses_##symbol(void)                               \
	{                                                        \
		return -1;                                           \
	}
REFUSES(parse_headers)
REFUSES(parse_to_header)
REFUSES(parse_contacts)
REFUSES(parse_uri)

/* Never called here: there are no routes, no TCP, no script variables. */
#define NEVER(symbol)                                       \
	void never_##symbol(void) __asm__(#symbol);             \
	void never_##symbol(void)                               \
	{                                                       \
		fprintf(stderr, "CRITICAL: " #symbol "() called\n"); \
		abort();                                            \
	}
NEVER(add_lump_rpl2) NEVER(faked_msg_next) NEVER(get_send_socket2) NEVER(ksr_msg_env_reset) NEVER(pv_get_null)
NEVER(pv_get_strval) NEVER(pv_get_uintval) NEVER(run_actions) NEVER(run_top_route) NEVER(sctp_core_msg_send)
NEVER(sr_event_exec) NEVER(sr_kemi_route) NEVER(su2a) NEVER(tcp_get_info) NEVER(tcp_send) NEVER(tcpconn_get)
NEVER(tcpconn_lookup) NEVER(free_contacts) NEVER(rec_lock_get) NEVER(rec_lock_release) NEVER(check_self)
NEVER(parse_sip_msg_uri)

static sr_kemi_t *volatile kemi_functions;
int sr_kemi_modules_add(sr_kemi_t *functions) { kemi_functions = functions; return 0; }

int counter_register(counter_handle_t *handle, const char *group, const char *name, int flags, counter_cbk_f callback,
		void *param, const char *doc, int reg_flags)
{
	const char **block = pkg_malloc(64);

	if(block)
		block[0] = name, block[1] = doc, block[2] = group;
	return keep(PKG, block);
}

int cfg_declare(char *group, cfg_def_t *definition, void *values, int size, void **handle)
{
	void **block = pkg_malloc(256);

	if(block)
		block[0] = group, block[1] = definition;
	return keep(PKG, block);
}

int cfg_register_ctx(cfg_ctx_t **handle, cfg_on_declare callback)
{
	*handle = shm_malloc(64);
	return keep(SHM, *handle);
}

int sr_instance_ready(void) { return 1; }
int sr_wtimer_add(timer_function *function, void *param, int interval) { return keep(SHM, shm_malloc(64)); }

static sr_corecb_t corecb;
sr_corecb_t *sr_corecb_get(void) { return &corecb; }

static sr_event_cb_f on_datagram, on_data;

int sr_event_register_cb(int type, sr_event_cb_f callback)
{
	sr_event_cb_f *slot = type == SREV_NET_DGRAM_IN ? &on_datagram : type == SREV_NET_DATA_IN ? &on_data : NULL;

	if(slot == NULL || *slot != NULL)
		return -1;
	*slot = callback;
	return 0;
}

static struct { cb_function *function; unsigned flags; void *param; } callbacks[8];
static int callback_count;

int register_script_cb(cb_function *function, unsigned int flags, void *param)
{
	if(keep(PKG, pkg_malloc(32)) < 0)
		return -1;
	callbacks[callback_count].function = function;
	callbacks[callback_count].flags = flags;
	callbacks[callback_count++].param = param;
	return 0;
}

int fork_process(int rank, char *desc, int make_sock)
{
	int number = *process_count, pid;

	if(must_fail(FORK) || number >= PROCESSES)
		return -1;
	fflush(NULL);
	pid = fork();
	if(pid < 0)
		return -1;
	if(pid > 0) {
		pt[number].pid = pid;
		pt[number].rank = rank;
		snprintf(pt[number].desc, sizeof(pt[number].desc), "%s", desc);
		*process_count = number + 1;
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while(*(volatile int *)process_count <= number) /* the parent has written its line */
		usleep(100);
	process_no = number;
	if(rank != PROC_NOCHLDINIT && its->init_child_f(rank) < 0)
		_exit(1);
	return 0;
}

/* -------------------------------------------------------------------------------------------- messages */

static struct socket_info sip_socket;
static struct receive_info received;
static char reply[LINE];
static int replies;
static int is_churning; /* nobody may die while it changes the records */

int udp_send(struct dest_info *dst, char *text, unsigned int length)
{
	snprintf(reply, sizeof(reply), "%.*s", (int)length, text);
	replies++;
	return length;
}

static void send_reply(char *text, int length)
{
	udp_send(NULL, text, length);
}

static int run_callbacks(unsigned which, struct sip_msg *msg)
{
	int i;

	for(i = callback_count - 1; i >= 0; i--) /* the last registered runs first */
		if((callbacks[i].flags & which) == which
				&& callbacks[i].function(msg, which, callbacks[i].param) == 0)
			return 0;
	return 1;
}

/* As Kamailio takes a message that the datagram stage has left alone (core/receive.c). */
static const char *receive(char *text, int length)
{
	static unsigned int count;
	str data = {text, length};
	sr_event_param_t event;
	struct sip_msg *msg;
	const char *came_to = "script";

	memset(&event, 0, sizeof(event));
	event.data = &data;
	if(on_data)
		on_data(&event);
	msg = pkg_malloc(sizeof(*msg));
	if(msg == NULL)
		return "dropped";
	memset(msg, 0, sizeof(*msg));
	msg->buf = pkg_malloc(length + 1);
	if(msg->buf == NULL) {
		pkg_free(msg);
		return "dropped";
	}
	memcpy(msg->buf, text, length + 1);
	msg->len = length;
	msg->id = ++count;
	msg->pid = getpid();
	msg->rcv = received;
	msg->first_line.type = SIP_REQUEST;
	msg->REQ_METHOD = strncmp(text, "REGISTER ", 9) == 0 ? METHOD_REGISTER : METHOD_OPTIONS;
	if(run_callbacks(PRE_SCRIPT_CB | REQUEST_CB, msg) == 0)
		came_to = "gate";
	else if(!is_churning)
		script(msg);
	run_callbacks(POST_SCRIPT_CB | REQUEST_CB, msg);
	pkg_free(msg->buf);
	pkg_free(msg);
	return came_to;
}

static const char *take_datagram(char *text)
{
	int length = strlen(text);
	void *parts[3] = {text, &length, &received};
	sr_event_param_t event;

	memset(&event, 0, sizeof(event));
	event.data = parts;
	replies = 0;
	*reply = 0;
	if(on_datagram && on_datagram(&event) < 0)
		return "datagram";
	return receive(text, length);
}

/* Not UDP: nothing comes before parsing. */
static const char *take_message(char *text)
{
	replies = 0;
	*reply = 0;
	return receive(text, strlen(text));
}

/* What is done for the answer is no part of what was asked for. Another process's fault stays armed. */
static void disarm(void)
{
	if(faults->process == getpid())
		faults->process = 0;
}

static void tell_fate(const char *came_to)
{
	disarm();
	printf("{\"came_to\":\"%s\",\"replies\":%d,\"reply\":", came_to, replies);
	print_text(reply);
	puts("}");
}

/* --------------------------------------------------------------------------------------------- commands */

static int choose(char *name, char *shm_kib, char *elsewhere)
{
	pkg_mem_size = 2 << 20;
	shm_mem_size = atol(shm_kib) << 10;
	if(!choose_manager(name) || (elsewhere && misfit(elsewhere) < 0) || open_pool(PKG, pkg_mem_size) < 0 || open_pool(SHM, shm_mem_size) < 0)
		return -1;
	_pkg_root = (sr_pkg_api_t){.mname = (char *)manager, .mem_pool = pools[PKG].control,
			.mem_block = pools[PKG].control, .xmalloc = pool_malloc, .xmallocxz = pool_mallocxz,
			.xrealloc = pool_realloc, .xreallocxf = pool_reallocxf, .xfree = pool_free};
	_shm_root = (sr_shm_api_t){.mname = (char *)manager, .mem_pool = pools[SHM].control,
			.mem_block = pools[SHM].control, .xmalloc = pool_malloc, .xmallocxz = pool_mallocxz,
			.xmalloc_unsafe = pool_malloc, .xrealloc = pool_realloc, .xreallocxf = pool_reallocxf,
			.xresize = pool_resize, .xfree = pool_free, .xfree_unsafe = pool_free};
	pkg_mem_size += CONTROL; /* the pool as the server sees it begins with the control block */
	shm_mem_size += CONTROL;
	return 0;
}

static void pool_info(void *control, struct mem_info *info)
{
	memset(info, 0, sizeof(*info));
	info->total_size = pool_of(control)->length;
}

static int set_up(char *name, char *shm_kib, char *elsewhere)
{
	faults = map(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pt = map(NULL, PROCESSES * sizeof(*pt), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	process_count = map(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	records = (struct record **)(process_count + 2); /* on the same page, which has room */
	moments = (struct moments *)(records + 1);
	if((void *)faults == MAP_FAILED || (void *)pt == MAP_FAILED || (void *)process_count == MAP_FAILED
			|| choose(name, shm_kib, elsewhere) < 0)
		return -1;
	_pkg_root.xinfo = pool_info;
	_shm_root.xinfo = pool_info;
	core_cfg = calloc(1, sizeof(struct cfg_group_core));
	pt[0].pid = getpid();
	strcpy(pt[0].desc, "main process - attendant");
	*process_count = 1;
	received.src_ip.af = AF_INET;
	received.src_ip.len = 4;
	memcpy(received.src_ip.u.addr, "\x7f\0\0\1", 4);
	received.src_port = 5070;
	received.src_su.sin.sin_family = AF_INET;
	received.src_su.sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	received.src_su.sin.sin_port = htons(5070);
	received.bind_address = &sip_socket;
	received.proto = PROTO_UDP;
	return 0;
}

static int load(char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL);

	if(handle == NULL)
		fprintf(stderr, "CRITICAL: %s\n", dlerror());
	else
		its = dlsym(handle, "exports");
	return its ? 0 : -1;
}

static int mod_register_it(void)
{
	mod_register_function run = (mod_register_function)dlsym(RTLD_DEFAULT, "mod_register");
	int flags = 0;

	return run("memguard.so", &flags, NULL, NULL);
}

static int set_param(char *name, char *value)
{
	param_export_t *param;

	for(param = its->params; param && param->name; param++)
		if(strcmp(param->name, name) == 0 && param->type == (PARAM_STRING | PARAM_USE_FUNC))
			return ((param_func_t)param->param_pointer)(PARAM_STRING, value);
	return -2;
}

static int start_children(void)
{
	if(its->init_child_f(PROC_INIT) < 0)
		return -1;
	return its->init_child_f(PROC_MAIN);
}

static void call_rpc(char *words)
{
	/* 5.6's formats are not const */
	rpc_t rpc = {.fault = (rpc_fault_f)rpc_fault, .add = (rpc_add_f)rpc_add, .scan = (rpc_scan_f)rpc_scan,
			.struct_add = (rpc_struct_add_f)rpc_struct_add, .array_add = (rpc_array_add_f)rpc_array_add};
	struct node root = {.type = LIST};
	char *list[32], *rest, *word;
	struct call call = {.root = &root, .words = list + 1};
	rpc_export_t *command;
	struct node *next, *child;
	int count = 0;

	for(word = strtok_r(words, " ", &rest); word && count < 32; word = strtok_r(NULL, " ", &rest))
		list[count++] = word;
	call.count = count - 1;
	for(command = its->rpc_methods; command->name && strcmp(command->name, list[0]) != 0; command++)
		;
	if(command->name) {
		if(step_at)
			trap_each();
		command->function(&rpc, &call);
		trap_no_more();
		step_at = 0;
	} else {
		rpc_fault(&call, 404, "no such command");
	}
	disarm();
	printf("{\"code\":%d,\"sentence\":", call.code);
	print_text(call.sentence);
	printf(",\"answer\":");
	print_node(&root);
	puts("}");
	for(child = root.first; child; child = next) {
		next = child->next;
		free_node(child);
	}
}

static void print_books(void)
{
	unsigned long bytes, blocks;
	int kind;

	printf("{");
	for(kind = PKG; kind <= SHM; kind++) {
		walk(kind, &bytes, &blocks);
		printf("\"%s\":%lu,\"%s_blocks\":%lu,\"%s_kept\":%lu,", kinds[kind], bytes, kinds[kind], blocks, kinds[kind],
				kept[kind]);
	}
	printf("\"records\":%d,\"process\":%d}\n", count_records(), process_no);
}

static void arm(char *words)
{
	char kind[8] = "", how[8] = "";
	int process = getpid();

	faults->process = 0;
	faults->seen = faults->failed = 0;
	if(sscanf(words, "%7s %ld %7s %d", kind, &faults->nth, how, &process) < 3)
		return;
	for(faults->kind = 0; faults->kind < KINDS && strcmp(kinds[faults->kind], kind) != 0; faults->kind++)
		;
	faults->forever = strcmp(how, "forever") == 0;
	faults->process = process;
}

static void print_faults(void)
{
	int kind;

	faults->process = 0;
	printf("{\"seen\":%ld,\"failed\":%ld", faults->seen, faults->failed);
	for(kind = 0; kind < KINDS; kind++)
		printf(",\"%s\":%ld", kinds[kind], faults->all_failed[kind]);
	puts("}");
}

static unsigned chance(unsigned *state, unsigned below)
{
	*state = *state * 1664525u + 1013904223u;
	return (*state >> 8) % below;
}

/* Takes, changes and gives blocks of both pools and receives REGISTERs until it is killed. */
static void churn(unsigned state)
{
	void *held[2][8] = {{NULL}};
	char text[1024];

	is_churning = 1;
	for(;;) {
		rest_if_told();
		int shared = chance(&state, 3) == 0, at = chance(&state, 8);
		size_t size = 1 + chance(&state, 2000);
		void **slot = &held[shared][at];

		switch(chance(&state, 8)) {
			case 0:
				snprintf(text, sizeof(text),
						"REGISTER sip:example.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK%u\r\n"
						"From: <sip:c%u@example.test>;tag=1\r\nTo: <sip:c%u@example.test>\r\nCall-ID: %u@%d\r\n"
						"CSeq: 1 REGISTER\r\nContact: <sip:c@127.0.0.1>\r\nExpires: 60\r\nContent-Length: 0\r\n\r\n",
						state, state % 5000, state % 5000, state, getpid());
				take_datagram(text);
				break;
			case 1: {
				void *changed = shared ? shm_realloc(*slot, size) : pkg_realloc(*slot, size);
				if(changed)
					*slot = changed;
				break;
			}
			default:
				if(*slot)
					shared ? shm_free(*slot) : pkg_free(*slot);
				*slot = *slot ? NULL : shared ? shm_malloc(size) : pkg_malloc(size);
		}
	}
}

/* A writer that dies outside the shared pool's own functions, wherever else it is: they are not memguard's. */
static int kill_outside_the_pool(int pid)
{
	int status = 0;

	lock_pool(&pools[SHM]);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	unlock_pool(&pools[SHM]);
	/* It may have let go of the lock and not yet woken who waits for it. */
	syscall(SYS_futex, &pools[SHM].lock->__data.__lock, FUTEX_WAKE, INT_MAX);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : -1;
}

/* A worker reads in its parent's place until it is told to leave. */
static int left_well(int pid)
{
	int status = 0;

	if(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 1;
	fprintf(stderr, "CRITICAL: the worker died of status %d\n", status);
	return 0;
}

static void end_children(void)
{
	int i;

	if(corecb.app_shutdown)
		corecb.app_shutdown();
	for(i = 1; i < *process_count; i++)
		if(pt[i].pid > 0)
			kill(pt[i].pid, SIGTERM);
	while(wait(NULL) > 0)
		;
}

static int destroy(void)
{
	end_children();
	its->destroy_mod_f();
	return _pkg_root.xmalloc == pool_malloc && _pkg_root.xfree == pool_free && _shm_root.xmalloc == pool_malloc
						   && _shm_root.xfree == pool_free
				   ? 0
				   : -1;
}

/* Byte by byte, as a child goes on reading where its parent stopped. "\r" and "\n" stand for what they name. */
static int read_line(char *line)
{
	int length = 0;
	char c, last = 0;

	while(read(0, &c, 1) == 1 && c != '\n') {
		if(last == '\\' && (c == 'r' || c == 'n'))
			line[length - 1] = c == 'r' ? '\r' : '\n', c = 0;
		else if(length < LINE - 1)
			line[length++] = c;
		last = c;
	}
	line[length] = 0;
	return length > 0;
}

static int is(char *line, const char *name, char **rest)
{
	size_t length = strlen(name);

	*rest = line + length + (line[length] == ' ');
	return strncmp(line, name, length) == 0 && (line[length] == 0 || line[length] == ' ');
}

int main(int argc, char **argv)
{
	static char line[LINE];
	char *rest, *value;
	int pid, is_worker = 0;

	/* memguard.so MANAGER KIB [size|used: what lies elsewhere in each block or pool] */
	if(argc < 4 || argc > 5 || set_up(argv[2], argv[3], argv[4]) < 0 || load(argv[1]) < 0)
		return 2;
	while(read_line(line)) {
		if(is(line, "fail", &rest)) {
			arm(rest);
			puts("0");
		} else if(is(line, "faults", &rest)) {
			print_faults();
		} else if(is(line, "register", &rest)) {
			printf("%d\n", mod_register_it());
		} else if(is(line, "param", &rest)) {
			value = strchr(rest, ' ');
			*value++ = 0;
			printf("%d\n", set_param(rest, value));
		} else if(is(line, "init", &rest)) {
			printf("%d\n", its->init_mod_f());
		} else if(is(line, "children", &rest)) {
			printf("%d\n", start_children());
		} else if(is(line, "worker", &rest)) {
			pid = fork_process(1, "udp receiver child=0", 1);
			is_worker = pid == 0;
			if(pid > 0 && !left_well(pid))
				return 3;
			printf("%d\n", pid < 0 ? -1 : 0);
		} else if(is(line, "leave", &rest) && is_worker) {
			_exit(0);
		} else if(is(line, "churn", &rest)) {
			pid = fork_process(2, "udp receiver that churns", 1);
			if(pid == 0)
				churn(atoi(rest));
			printf("%d\n", pid);
		} else if(is(line, "rest", &rest)) {
			tell_to_rest(atoi(rest));
			puts("0");
		} else if(is(line, "partner", &rest)) {
			pid = fork_process(2, "udp receiver that takes a block", 1);
			if(pid == 0)
				partner();
			printf("%d\n", pid);
		} else if(is(line, "step", &rest)) { /* the next command, at this instruction; -1: only counts them */
			step_at = atol(rest);
			puts("0");
		} else if(is(line, "steps", &rest)) {
			printf("%ld\n", steps);
		} else if(is(line, "lines", &rest)) { /* of the process table, with nobody behind them */
			for(pid = atoi(rest); pid > 0 && *process_count < PROCESSES; pid--) {
				pt[*process_count].rank = 1;
				strcpy(pt[*process_count].desc, "udp receiver child=100 sock=192.0.2.1:5060");
				(*process_count)++;
			}
			printf("%d\n", *process_count);
		} else if(is(line, "kill", &rest)) {
			printf("%d\n", kill_outside_the_pool(atoi(rest)));
		} else if(is(line, "datagram", &rest)) {
			tell_fate(take_datagram(rest));
		} else if(is(line, "message", &rest)) {
			tell_fate(take_message(rest));
		} else if(is(line, "rpc", &rest)) {
			call_rpc(rest);
		} else if(is(line, "books", &rest)) {
			print_books();
		} else if(is(line, "hooked", &rest)) { /* pools whose functions are no longer the manager's */
			printf("%d\n", (_pkg_root.xmalloc != pool_malloc) + (_shm_root.xmalloc != pool_malloc));
		} else if(is(line, "destroy", &rest)) {
			printf("%d\n", destroy());
		} else {
			return 2;
		}
		fflush(stdout);
	}
	return 0;
}
