/*
 * Kamailio's RPC interface, as far as memguard calls it: the answer grows as a tree of blocks in pkg, as it does in
 * real RPC modules, so that each piece of it may fail. It is printed as JSON.
 * Forbidden here: knowing any command.
 */
#include <stdarg.h>
#include <stdio.h>

enum { STRUCT, LIST, VALUE };

struct node {
	int type;
	struct node *first, *last, *next;
	char *name; /* in the same block, as is the text */
	char *text;
};

struct call {
	struct node *root; /* a list */
	char **words;
	int count;
	int code; /* of the fault; 0: none */
	char sentence[512];
};

static struct node *add_node(struct node *to, int type, const char *name, const char *text)
{
	size_t name_size = strlen(name) + 1, text_size = strlen(text) + 1;
	struct node *node = to ? pkg_malloc(sizeof(*node) + name_size + text_size) : NULL;

	if(node == NULL)
		return NULL;
	memset(node, 0, sizeof(*node));
	node->type = type;
	node->name = memcpy(node + 1, name, name_size);
	node->text = memcpy(node->name + name_size, text, text_size);
	if(to->last)
		to->last->next = node;
	else
		to->first = node;
	to->last = node;
	return node;
}

static void free_node(struct node *node)
{
	struct node *next, *child;

	for(child = node->first; child; child = next) {
		next = child->next;
		free_node(child);
	}
	pkg_free(node);
}

static void print_text(const char *text)
{
	putchar('"');
	for(; *text; text++) {
		if(*text == '"' || *text == '\\')
			putchar('\\');
		if((unsigned char)*text < ' ')
			printf("\\u%04x", *text);
		else
			putchar(*text);
	}
	putchar('"');
}

static void print_node(struct node *node)
{
	struct node *child;

	if(node->type == VALUE) {
		if(*node->text == 's')
			print_text(node->text + 1);
		else
			fputs(node->text + 1, stdout);
		return;
	}
	putchar(node->type == STRUCT ? '{' : '[');
	for(child = node->first; child; child = child->next) {
		if(child != node->first)
			putchar(',');
		if(node->type == STRUCT) {
			print_text(child->name);
			putchar(':');
		}
		print_node(child);
	}
	putchar(node->type == STRUCT ? '}' : ']');
}

/* One item by its letter in the format (core/rpc.h). */
static int add_item(struct node *to, char letter, const char *name, va_list *values)
{
	char number[64];
	const char *text;
	char *copy;
	struct node *node, **out;

	switch(letter) {
		case '{':
		case '[':
			out = va_arg(*values, struct node **);
			*out = add_node(to, letter == '{' ? STRUCT : LIST, name, "");
			return *out ? 0 : -1;
		case 's':
			text = va_arg(*values, const char *);
			copy = pkg_malloc(strlen(text) + 2);
			if(copy == NULL)
				return -1;
			*copy = 's';
			strcpy(copy + 1, text);
			node = add_node(to, VALUE, name, copy);
			pkg_free(copy);
			return node ? 0 : -1;
		case 'd':
			snprintf(number, sizeof(number), "n%d", va_arg(*values, int));
			break;
		case 'J':
			snprintf(number, sizeof(number), "n%llu", va_arg(*values, unsigned long long));
			break;
		case 'L':
			snprintf(number, sizeof(number), "n%lld", va_arg(*values, long long));
			break;
		case 'f':
			snprintf(number, sizeof(number), "n%f", va_arg(*values, double));
			break;
		default:
			abort();
	}
	return add_node(to, VALUE, name, number) ? 0 : -1;
}

static void rpc_fault(void *ctx, int code, const char *format, ...)
{
	struct call *call = ctx;
	va_list values;

	va_start(values, format);
	call->code = code;
	vsnprintf(call->sentence, sizeof(call->sentence), format, values);
	va_end(values);
}

static int rpc_add(void *ctx, const char *format, ...)
{
	va_list values;
	int result = 0;

	va_start(values, format);
	for(; *format && result == 0; format++)
		result = add_item(((struct call *)ctx)->root, *format, "", &values);
	va_end(values);
	return result;
}

static int rpc_struct_add(void *at, const char *format, ...)
{
	va_list values;
	int result = 0;

	va_start(values, format);
	for(; *format && result == 0; format++) {
		const char *name = va_arg(values, const char *);
		result = add_item(at, *format, name, &values);
	}
	va_end(values);
	return result;
}

static int rpc_array_add(void *at, const char *format, ...)
{
	va_list values;
	int result = 0;

	va_start(values, format);
	for(; *format && result == 0; format++)
		result = add_item(at, *format, "", &values);
	va_end(values);
	return result;
}

/* Only what memguard asks for: one word, optional. */
static int rpc_scan(void *ctx, const char *format, ...)
{
	struct call *call = ctx;
	va_list values;

	if(strcmp(format, "*.s") != 0)
		abort();
	if(call->count == 0)
		return 0;
	va_start(values, format);
	*va_arg(values, char **) = *call->words++;
	va_end(values);
	call->count--;
	return 1;
}
