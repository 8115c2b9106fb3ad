/*
 * mgtest: a Kamailio module for memguard's tests. It leaks, holds and shrinks pool memory on request, lets allocations
 * fail (faults.h), and reads the memory managers' own figures in the process that is asked.
 * Forbidden here: any header before sr_module.h, or the flag string is not Kamailio's.
 */
#define _GNU_SOURCE /* memmem() */
#include "core/sr_module.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/action.h"
#include "core/events.h"
#include "core/kemi.h"
#include "core/mem/pkg.h"
#include "core/mem/shm.h"
#include "core/mod_fix.h"
#include "core/parser/parse_param.h"
#include "core/pt.h"
#include "core/pvar.h"
#include "core/route.h"
#include "core/rpc.h"
#include "core/rpc_lookup.h"
#include "core/ut.h"
#include "core/xavp.h"

MODULE_VERSION

#include "faults.h"

/* Blocks that are held, linked through their first word; of each process, also for shm. */
struct held {
	struct held *next;
};
static struct held *held_pkg = NULL;
static struct held *held_shm = NULL;

static int hold(struct held **list, struct held *block)
{
	if(block == NULL)
		return -1;
	block->next = *list;
	*list = block;
	return 1;
}

static size_t at_least_a_link(int bytes)
{
	return bytes > (int)sizeof(struct held) ? (size_t)bytes : sizeof(struct held);
}

static int hold_pkg(int bytes)
{
	return hold(&held_pkg, pkg_malloc(at_least_a_link(bytes)));
}

static int hold_shm(int bytes)
{
	return hold(&held_shm, shm_malloc(at_least_a_link(bytes)));
}

static int release_pkg(void)
{
	int count = 0;
	while(held_pkg) {
		struct held *next = held_pkg->next;
		pkg_free(held_pkg);
		held_pkg = next;
		count++;
	}
	return count;
}

static int release_shm(void)
{
	int count = 0;
	while(held_shm) {
		struct held *next = held_shm->next;
		shm_free(held_shm);
		held_shm = next;
		count++;
	}
	return count;
}

/* Takes all of shm in small blocks and gives every second one back: half is free, in pieces of that size. */
static int checker_shm(int bytes)
{
	struct held *each;
	while(hold_shm(bytes) > 0)
		;
	for(each = held_shm; each && each->next; each = each->next) {
		struct held *gone = each->next;
		each->next = gone->next;
		shm_free(gone);
	}
	return 1;
}

/* Holds memory in halving pieces until an allocation of `leave` bytes fails; the smallest piece is 16 bytes. */
static int fill(int (*take)(int), int leave)
{
	int piece = 1 << 24;
	int least = leave > 16 ? leave : 16;
	while(piece >= least) {
		if(take(piece) < 0)
			piece /= 2;
	}
	return 1;
}

/* ---- script functions: integers may be pseudo-variables ---- */

static int w_int(sip_msg_t *msg, char *p, int *value)
{
	return get_int_fparam(value, msg, (fparam_t *)p);
}

static int w_leak_pkg(sip_msg_t *msg, char *p, char *unused)
{
	int bytes;
	return w_int(msg, p, &bytes) == 0 && pkg_malloc((size_t)bytes) ? 1 : -1;
}

static int w_leak_shm(sip_msg_t *msg, char *p, char *unused)
{
	int bytes;
	return w_int(msg, p, &bytes) == 0 && shm_malloc((size_t)bytes) ? 1 : -1;
}

/* Outside the pools: libc's heap, written to, so that the system gives pages for it. */
static int w_leak_libc(sip_msg_t *msg, char *p, char *unused)
{
	int bytes;
	char *volatile block;
	if(w_int(msg, p, &bytes) < 0 || (block = malloc((size_t)bytes)) == NULL)
		return -1;
	memset(block, 1, (size_t)bytes);
	return 1;
}

/* Uses what it allocated without looking whether it got it: crashes when it did not. */
static int w_careless(sip_msg_t *msg, char *p, char *unused)
{
	int bytes;
	char *block;
	if(w_int(msg, p, &bytes) < 0)
		return -1;
	block = pkg_malloc((size_t)bytes);
	memset(block, 0, (size_t)bytes);
	pkg_free(block);
	return 1;
}

/* Forgets its first block when it gets no second one. */
static int w_forgetful(sip_msg_t *msg, char *p, char *unused)
{
	int bytes;
	char *first, *second;
	if(w_int(msg, p, &bytes) < 0 || (first = pkg_malloc((size_t)bytes)) == NULL)
		return -1;
	second = pkg_malloc((size_t)bytes);
	if(second == NULL)
		return -1;
	pkg_free(second);
	pkg_free(first);
	return 1;
}

/* Forks as a script does that runs a command: the child has no process number of its own. It allocates in both pools,
 * as much as `bytes`, and ends without giving shm back. */
static int w_fork(sip_msg_t *msg, char *p, char *unused)
{
	int bytes, status, i;
	pid_t child;
	if(w_int(msg, p, &bytes) < 0 || (child = fork()) < 0)
		return -1;
	if(child == 0) {
		for(i = 0; i < 10; i++) {
			void *block = pkg_malloc((size_t)bytes);
			if(block && i % 2)
				pkg_free(block);
		}
		_exit(shm_malloc((size_t)bytes) ? 0 : 1);
	}
	return waitpid(child, &status, 0) == child && status == 0 ? 1 : -1;
}

static int w_hold_pkg(sip_msg_t *msg, char *p, char *unused)
{
	int bytes;
	return w_int(msg, p, &bytes) == 0 ? hold_pkg(bytes) : -1;
}

static int w_hold_shm(sip_msg_t *msg, char *p, char *unused)
{
	int bytes;
	return w_int(msg, p, &bytes) == 0 ? hold_shm(bytes) : -1;
}

static int w_fill_pkg(sip_msg_t *msg, char *p, char *unused)
{
	int leave;
	return w_int(msg, p, &leave) == 0 ? fill(hold_pkg, leave) : -1;
}

static int w_fill_shm(sip_msg_t *msg, char *p, char *unused)
{
	int leave;
	return w_int(msg, p, &leave) == 0 ? fill(hold_shm, leave) : -1;
}

static int w_release(sip_msg_t *msg, char *p, char *unused)
{
	release_pkg();
	release_shm();
	return 1;
}

/* A realloc that shrinks, as string helpers do; the result is freed. */
static int w_shrink_pkg(sip_msg_t *msg, char *p, char *q)
{
	int from, to;
	char *block, *smaller;
	if(w_int(msg, p, &from) < 0 || w_int(msg, q, &to) < 0)
		return -1;
	block = pkg_malloc((size_t)from);
	smaller = block ? pkg_realloc(block, (size_t)to) : NULL;
	if(smaller)
		pkg_free(smaller);
	return smaller ? 1 : -1;
}

static int w_shrink_shm(sip_msg_t *msg, char *p, char *q)
{
	int from, to;
	char *block, *smaller;
	if(w_int(msg, p, &from) < 0 || w_int(msg, q, &to) < 0)
		return -1;
	block = shm_malloc((size_t)from);
	smaller = block ? shm_realloc(block, (size_t)to) : NULL;
	if(smaller)
		shm_free(smaller);
	return smaller ? 1 : -1;
}

/* ---- leaks through the core's helpers: the place that allocates is not the culprit ---- */

/* pkg, core/parser/parse_param.c: the list is forgotten. Exported, so that a call path can name it. */
int mgtest_forget_params(char *text)
{
	str in = {text, strlen(text)};
	param_hooks_t hooks;
	param_t *list = NULL;
	int parsed = parse_params(&in, CLASS_ANY, &hooks, &list);
	return parsed == 0 && list != NULL ? 1 : -1;
}

/* pkg, core/pvapi.c: the parsed format is forgotten. Not exported. */
static int forget_format(char *text)
{
	str in = {text, strlen(text)};
	pv_elem_t *model = NULL;
	int parsed = pv_parse_format(&in, &model);
	return parsed == 0 && model != NULL ? 1 : -1;
}

/* shm, core/xavp.c: the value is in no list that anybody knows. */
int mgtest_forget_xavp(char *text)
{
	str name = {"forgotten", 9};
	sr_xval_t value;
	sr_xavp_t *list = NULL, *added;
	memset(&value, 0, sizeof(value));
	value.type = SR_XTYPE_STR;
	value.v.s.s = text;
	value.v.s.len = strlen(text);
	added = xavp_add_value(&name, &value, &list);
	return added != NULL ? 1 : -1;
}

/* pkg, core/ut.c: the copy is forgotten. */
int mgtest_forget_copy(char *text)
{
	str in = {text, strlen(text)};
	char *volatile copy = as_asciiz(&in);
	return copy != NULL ? 1 : -1;
}

static int w_forget_params(sip_msg_t *msg, char *text, char *unused)
{
	int done = mgtest_forget_params(text);
	return done > 0 ? 1 : -1;
}

static int w_forget_format(sip_msg_t *msg, char *text, char *unused)
{
	int done = forget_format(text);
	return done > 0 ? 1 : -1;
}

static int w_forget_xavp(sip_msg_t *msg, char *text, char *unused)
{
	int done = mgtest_forget_xavp(text);
	return done > 0 ? 1 : -1;
}

/* Runs a route first, as functions with event routes do: afterwards Kamailio does not know its own line any more. */
static int w_route_then_forget(sip_msg_t *msg, char *route, char *text)
{
	int index = route_lookup(&main_rt, route);
	if(index < 0 || main_rt.rlist[index] == NULL)
		return -1;
	run_top_route(main_rt.rlist[index], msg, NULL);
	return mgtest_forget_copy(text) > 0 ? 1 : -1;
}

static int ki_forget_params(sip_msg_t *msg, str *text)
{
	int done = mgtest_forget_params(text->s);
	return done > 0 ? 1 : -1;
}

static sr_kemi_t kemi[] = {
		{str_init("mgtest"), str_init("forget_params"), SR_KEMIP_INT, ki_forget_params,
				{SR_KEMIP_STR, SR_KEMIP_NONE, SR_KEMIP_NONE, SR_KEMIP_NONE, SR_KEMIP_NONE, SR_KEMIP_NONE}},
		{{0, 0}, {0, 0}, 0, NULL, {0, 0, 0, 0, 0, 0}}};

int mod_register(char *path, int *dlflags, void *p1, void *p2)
{
	if(getenv("MGTEST_FAULTS") && install_faults() < 0)
		return -1;
	return sr_kemi_modules_add(kemi);
}

static cmd_export_t cmds[] = {
		{"mgtest_forget_params", (cmd_function)w_forget_params, 1, 0, 0, ANY_ROUTE},
		{"mgtest_forget_format", (cmd_function)w_forget_format, 1, 0, 0, ANY_ROUTE},
		{"mgtest_forget_xavp", (cmd_function)w_forget_xavp, 1, 0, 0, ANY_ROUTE},
		{"mgtest_route_then_forget", (cmd_function)w_route_then_forget, 2, 0, 0, ANY_ROUTE},
		{"mgtest_careless", (cmd_function)w_careless, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_forgetful", (cmd_function)w_forgetful, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_leak_pkg", (cmd_function)w_leak_pkg, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_leak_libc", (cmd_function)w_leak_libc, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_fork", (cmd_function)w_fork, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_leak_shm", (cmd_function)w_leak_shm, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_hold_pkg", (cmd_function)w_hold_pkg, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_hold_shm", (cmd_function)w_hold_shm, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_fill_pkg", (cmd_function)w_fill_pkg, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_fill_shm", (cmd_function)w_fill_shm, 1, fixup_igp_null, 0, ANY_ROUTE},
		{"mgtest_release", (cmd_function)w_release, 0, 0, 0, ANY_ROUTE},
		{"mgtest_shrink_pkg", (cmd_function)w_shrink_pkg, 2, fixup_igp_igp, 0, ANY_ROUTE},
		{"mgtest_shrink_shm", (cmd_function)w_shrink_shm, 2, fixup_igp_igp, 0, ANY_ROUTE},
		{0, 0, 0, 0, 0, 0}};

/* ---- $mgtest(name): the figures of the process that evaluates it ---- */

static const char *pv_names[] = {"pkg_used", "pkg_real_used", "pkg_free",
		"pkg_total", "shm_used", "shm_real_used", "shm_free", "shm_total", "pid",
		"index", NULL};

static int pv_parse(pv_spec_p spec, str *in)
{
	int i;
	for(i = 0; pv_names[i]; i++) {
		if((int)strlen(pv_names[i]) == in->len
				&& strncmp(pv_names[i], in->s, in->len) == 0) {
			spec->pvp.pvn.type = PV_NAME_INTSTR;
			spec->pvp.pvn.u.isname.type = 0;
			spec->pvp.pvn.u.isname.name.n = i;
			return 0;
		}
	}
	return -1;
}

static int pv_get(sip_msg_t *msg, pv_param_t *param, pv_value_t *res)
{
	struct mem_info pkg, shm;
	unsigned long value[10];
	pkg_info(&pkg);
	shm_info(&shm);
	value[0] = pkg.used_size;
	value[1] = pkg.real_used;
	value[2] = pkg.free_size;
	value[3] = pkg.total_size;
	value[4] = shm.used_size;
	value[5] = shm.real_used;
	value[6] = shm.free_size;
	value[7] = shm.total_size;
	value[8] = (unsigned long)getpid();
	value[9] = (unsigned long)process_no;
	return pv_get_uintval(
			msg, param, res, value[param->pvn.u.isname.name.n % 10]);
}

static pv_export_t pvs[] = {
		{{"mgtest", sizeof("mgtest") - 1}, PVT_OTHER, pv_get, 0, pv_parse, 0, 0, 0},
		{{0, 0}, 0, 0, 0, 0, 0, 0, 0}};

/* ---- RPC: runs in the RPC process (ctl, jsonrpcs), or in a SIP worker through xhttp ---- */

static void add_info(
		rpc_t *rpc, void *ctx, const char *manager, struct mem_info *m)
{
	void *answer;
	if(rpc->add(ctx, "{", &answer) < 0)
		return;
	rpc->struct_add(answer, "sddJJJJJJ", "manager", manager, "pid", (int)getpid(), "index",
			process_no, "total", (unsigned long long)m->total_size, "free",
			(unsigned long long)m->free_size, "used",
			(unsigned long long)m->used_size, "real_used",
			(unsigned long long)m->real_used, "max_used",
			(unsigned long long)m->max_used, "fragments",
			(unsigned long long)m->total_frags);
}

static void rpc_pkg_info(rpc_t *rpc, void *ctx)
{
	struct mem_info m;
	memset(&m, 0, sizeof(m));
	pkg_info(&m);
	add_info(rpc, ctx, _pkg_root.mname, &m);
}

static void rpc_shm_info(rpc_t *rpc, void *ctx)
{
	struct mem_info m;
	memset(&m, 0, sizeof(m));
	shm_info(&m);
	add_info(rpc, ctx, _shm_root.mname, &m);
}

static void rpc_hold_shm(rpc_t *rpc, void *ctx)
{
	int bytes, count, done;
	if(rpc->scan(ctx, "dd", &bytes, &count) < 2) {
		rpc->fault(ctx, 400, "bytes and count, please");
		return;
	}
	for(done = 0; done < count && hold_shm(bytes) > 0; done++)
		;
	rpc->add(ctx, "d", done);
}

static void rpc_leak_pkg(rpc_t *rpc, void *ctx)
{
	int bytes;
	if(rpc->scan(ctx, "d", &bytes) < 1) {
		rpc->fault(ctx, 400, "how many bytes, please");
		return;
	}
	rpc->add(ctx, "d", pkg_malloc((size_t)bytes) ? 1 : 0);
}

static void rpc_fill_shm(rpc_t *rpc, void *ctx)
{
	int leave;
	if(rpc->scan(ctx, "d", &leave) < 1) {
		rpc->fault(ctx, 400, "the size that must not fit any more, please");
		return;
	}
	fill(hold_shm, leave);
	rpc->add(ctx, "d", 1);
}

static void rpc_checker_shm(rpc_t *rpc, void *ctx)
{
	int bytes;
	if(rpc->scan(ctx, "d", &bytes) < 1) {
		rpc->fault(ctx, 400, "the size that must not fit any more, please");
		return;
	}
	checker_shm(bytes);
	rpc->add(ctx, "d", 1);
}

static void rpc_release(rpc_t *rpc, void *ctx)
{
	rpc->add(ctx, "d", release_shm() + release_pkg());
}

static const char *doc[] = {"For memguard's tests.", 0};
static rpc_export_t rpcs[] = {{"mgtest.pkg_info", rpc_pkg_info, doc, 0},
		{"mgtest.shm_info", rpc_shm_info, doc, 0},
		{"mgtest.hold_shm", rpc_hold_shm, doc, 0},
		{"mgtest.leak_pkg", rpc_leak_pkg, doc, 0},
		{"mgtest.fill_shm", rpc_fill_shm, doc, 0},
		{"mgtest.checker_shm", rpc_checker_shm, doc, 0},
		{"mgtest.release", rpc_release, doc, 0},
		{"mgtest.fail", rpc_fail, doc, 0},
		{"mgtest.faults", rpc_faults, doc, 0}, {0, 0, 0, 0}};

/* 1: holds the hook for datagrams, as sipcapture does, so that memguard cannot have it */
static int take_datagrams = 0;
/* 1: holds all places of the event before parsing */
static int take_stream = 0;
static param_export_t params[] = {{"take_datagrams", PARAM_INT, &take_datagrams},
		{"take_stream", PARAM_INT, &take_stream}, {0, 0, 0}};

static int let_pass(sr_event_param_t *event)
{
	return 0;
}

static int mod_init(void)
{
	if(take_datagrams && sr_event_register_cb(SREV_NET_DGRAM_IN, let_pass) < 0)
		return -1;
	while(take_stream && sr_event_register_cb(SREV_NET_DATA_IN, let_pass) >= 0)
		;
	return watch_messages();
}

struct module_exports exports = {.name = "mgtest",
		.dlflags = DEFAULT_DLFLAGS,
		.cmds = cmds,
		.params = params,
		.rpc_methods = rpcs,
		.pv_items = pvs,
		.init_mod_f = mod_init};
