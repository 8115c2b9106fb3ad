/*
 * The stand-in's script: a registrar that grants whatever it is asked for, with a usrloc of its own behind the
 * interface that memguard binds. Its records live in shm, its replies in pkg; any of that may fail.
 * Forbidden here: more of SIP than the tests' own messages need.
 */
#include "modules/sl/sl.h"
#include "modules/usrloc/usrloc.h"
#include "modules/usrloc/ul_callback.h"

struct record {
	urecord_t record;
	ucontact_t contact;
	struct record *next;
	char text[200]; /* the user and the contact */
};
static struct record **records; /* of all processes; written by one worker at a time */
static ul_cb *on_contact;
static sl_cbelem_t *on_reply;

static int count_records(void)
{
	struct record *r;
	int count = 0;

	for(r = *records; r; r = r->next)
		count++;
	return count;
}

static int get_domain(const char *name, udomain_t **domain)
{
	*domain = (udomain_t *)records;
	return strcmp(name, "location") == 0 ? 0 : -1;
}

static int get_record(udomain_t *domain, str *aor, urecord_t **found)
{
	struct record *r;

	for(r = *records; r; r = r->next)
		if(r->record.aor.len == aor->len && memcmp(r->record.aor.s, aor->s, aor->len) == 0)
			return *found = &r->record, 0;
	return 1;
}

static void lock_domain(udomain_t *domain, str *aor) {}
static void release_record(urecord_t *record) {}

static int watch_contacts(int types, ul_cb callback, void *param)
{
	if(keep(SHM, shm_malloc(32)) < 0)
		return -1;
	on_contact = callback;
	return 1;
}

static int bind_usrloc_here(usrloc_api_t *api)
{
	memset(api, 0, sizeof(*api));
	api->db_mode = 0;
	api->get_udomain = (get_udomain_t)get_domain;
	api->get_urecord = (get_urecord_t)get_record;
	api->lock_udomain = (lock_udomain_t)lock_domain;
	api->unlock_udomain = (unlock_udomain_t)lock_domain;
	api->release_urecord = (release_urecord_t)release_record;
	api->register_ulcb = (register_ulcb_t)watch_contacts;
	return 0;
}

static int register_reply_cb(sl_cbelem_t *element)
{
	on_reply = element;
	return 0;
}

static int bind_sl_here(sl_api_t *api)
{
	memset(api, 0, sizeof(*api));
	api->register_cb = register_reply_cb;
	return 0;
}

cmd_function find_export(char *name, int param_no, int flags)
{
	if(strcmp(name, "bind_sl") == 0)
		return (cmd_function)(void *)bind_sl_here;
	return strcmp(name, "ul_bind_usrloc") == 0 ? (cmd_function)(void *)bind_usrloc_here : NULL;
}

/* memguard learns usrloc's tables from its statistics. */
void counter_iterate_grp_vars(const char *group, void (*each)(void *, str *, str *, counter_handle_t), void *closure)
{
	str group_name = {(char *)group, strlen(group)}, name = {"location-contacts", 17};
	counter_handle_t handle = {0};

	if(strcmp(group, "usrloc") == 0)
		each(closure, &group_name, &name, handle);
}

/* What stands between two strings; its length, 0 for nothing. */
static int between(const char *text, const char *from, char until, const char **found)
{
	const char *at = strstr(text, from), *end = at ? strchr(at + strlen(from), until) : NULL;

	if(end == NULL)
		return 0;
	*found = at + strlen(from);
	return end - *found;
}

static void tell(struct record *r, int event)
{
	if(on_contact)
		on_contact(&r->contact, event, NULL);
}

/* The SIP code of what a REGISTER's wish has come to. */
static int save(const char *text)
{
	const char *user = NULL, *contact = NULL, *expires = NULL;
	int user_length = between(text, "\r\nTo: <sip:", '@', &user);
	int contact_length = between(text, "\r\nContact: <", '>', &contact);
	int seconds = between(text, "\r\nExpires: ", '\r', &expires) ? atoi(expires) : 3600;
	struct record **at, *r;
	int is_same;

	if(user_length == 0 || user_length + contact_length > (int)sizeof(r->text))
		return 400;
	if(contact_length == 0)
		return 200; /* a question */
	for(at = records; (r = *at) != NULL; at = &r->next)
		if(r->record.aor.len == user_length && memcmp(r->text, user, user_length) == 0)
			break;
	if(seconds == 0) {
		if(r) {
			tell(r, UL_CONTACT_DELETE);
			*at = r->next;
			shm_free(r);
		}
		return 200;
	}
	if(r == NULL) {
		r = shm_malloc(sizeof(*r));
		if(r == NULL)
			return 500;
		memset(r, 0, sizeof(*r));
		r->record.aor = (str){memcpy(r->text, user, user_length), user_length};
		r->record.contacts = &r->contact;
		r->contact.aor = &r->record.aor;
		*at = r;
	}
	is_same = r->contact.c.len == contact_length && memcmp(r->contact.c.s, contact, contact_length) == 0;
	if(!is_same && r->contact.c.len)
		tell(r, UL_CONTACT_DELETE); /* one contact each */
	r->contact.c = (str){memcpy(r->text + user_length, contact, contact_length), contact_length};
	r->contact.expires = time(NULL) + seconds;
	tell(r, is_same ? UL_CONTACT_UPDATE : UL_CONTACT_INSERT);
	return 200;
}

static void send_reply(char *text, int length);

/* A challenge where "X-Challenge" stands, else what save() says. */
static void script(struct sip_msg *msg)
{
	const char *rest = strstr(msg->buf, "\r\n");
	int is_register = msg->REQ_METHOD == METHOD_REGISTER;
	int code = strstr(msg->buf, "\r\nX-Challenge") ? 401 : is_register ? save(msg->buf) : 200;
	size_t room = msg->len + 100;
	sl_cbp_t event;
	str text;

	text.s = rest ? pkg_malloc(room) : NULL;
	if(text.s == NULL)
		return;
	text.len = snprintf(text.s, room, "SIP/2.0 %d Stand-in%s", code, rest);
	memset(&event, 0, sizeof(event));
	event.type = SLCB_REPLY_READY;
	event.req = msg;
	event.code = code;
	event.reply = &text;
	if(on_reply)
		on_reply->cbf(&event);
	send_reply(text.s, text.len);
	pkg_free(text.s);
}
