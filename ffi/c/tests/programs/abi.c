/* Calls everything of the interface, rightly and wrongly, and says in which line something was not as it should be. The
 * parameter 'mode' selects what is done. */

#define _GNU_SOURCE
#include <dflow.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int wrong = 0;

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, dflow_last_error());  \
            wrong = 1;                                                                       \
        }                                                                                    \
    } while (0)

/* An error of this kind whose text contains this. */
#define FAILS(call, status, text)                                                            \
    do {                                                                                     \
        dflow_status got = (call);                                                           \
        if (got != (status) || !strstr(dflow_last_error(), text)) {                          \
            fprintf(stderr, "line %d: %s gives %s: %s\n", __LINE__, #call, dflow_status_name(got), dflow_last_error()); \
            wrong = 1;                                                                       \
        }                                                                                    \
    } while (0)

static const void *data;
static size_t length;

/* Left by the function, for when it has ended. */
static dflow_context *old_context;
static dflow_input *old_input;
static dflow_output *old_output;
static dflow_view *old_view;

static void names_and_parameters(dflow_context *context) {
    const char *text = NULL;
    uint32_t number = 77;
    int64_t whole = 5;
    double real = 0.5;
    dflow_input *input = NULL;
    dflow_output *output = NULL;
    dflow_inputs *inputs = NULL;
    CHECK(dflow_instance(context, &text) == DFLOW_OK && strlen(text) > 0);
    CHECK(dflow_part(context, &number) == DFLOW_UNSET && number == 77);
    CHECK(dflow_part_file(context, &text) == DFLOW_UNSET);
    CHECK(dflow_attempt(context, &number) == DFLOW_OK && number == 1);
    CHECK(dflow_param(context, "mode", &text, &length) == DFLOW_OK && strlen(text) == length);
    CHECK(dflow_param(context, "none", &text, &length) == DFLOW_UNSET);
    CHECK(dflow_param_int(context, "none", &whole) == DFLOW_UNSET && whole == 5);
    FAILS(dflow_param_int(context, "nubmer", &whole), DFLOW_ERROR_NAME, "did you mean --param nubmer");
    CHECK(dflow_param_int(context, "number", &whole) == DFLOW_OK && whole == -42);
    CHECK(dflow_param_double(context, "number", &real) == DFLOW_OK && real == -42.0);
    FAILS(dflow_param_int(context, "mode", &whole), DFLOW_ERROR_VALUE, "'mode' has the value 'all'");
    FAILS(dflow_param(context, NULL, &text, &length), DFLOW_ERROR_ARGUMENT, "'name' is NULL");
    FAILS(dflow_param(context, "\xff", &text, &length), DFLOW_ERROR_ARGUMENT, "not UTF-8");
    FAILS(dflow_input_open(context, "nothing", &input), DFLOW_ERROR_NAME, "needs the input 'nothing'");
    FAILS(dflow_output_open(context, "nothing", &output), DFLOW_ERROR_NAME, "needs the output 'nothing'");
    FAILS(dflow_input_open(context, "in", NULL), DFLOW_ERROR_ARGUMENT, "'input' is NULL");
    FAILS(dflow_input_open(NULL, "in", &input), DFLOW_ERROR_ARGUMENT, "'context' is NULL");
    FAILS(dflow_input_open((dflow_context *)(uintptr_t)4096, "in", &input), DFLOW_ERROR_HANDLE, "not an open context");
    FAILS(dflow_input_open(context, "many", &input), DFLOW_ERROR_NAME, "is a list of streams");
    /* Two streams of a list, in order. */
    uint32_t count = 0;
    size_t all = 0;
    (void)inputs;
    FAILS(dflow_inputs_open(context, "many", &inputs), DFLOW_ERROR_NAME, "already been taken");
    CHECK(dflow_inputs_open(context, "more", &inputs) == DFLOW_OK);
    CHECK(dflow_inputs_count(inputs, &count) == DFLOW_OK && count == 2);
    CHECK(dflow_inputs_next(inputs, &input) == DFLOW_OK);
    while (dflow_input_chunk(input, &data, &length) == DFLOW_OK) {
        all += length;
    }
    CHECK(all > 0);
    CHECK(dflow_input_close(input) == DFLOW_OK);
    FAILS(dflow_input_close(input), DFLOW_ERROR_HANDLE, "not an open input");
    all = 0;
    while (dflow_inputs_ready(inputs, &number, &data, &length) == DFLOW_OK) {
        CHECK(number == 1);
        all += length;
    }
    CHECK(all > 0);
    CHECK(dflow_inputs_try_next(inputs, &input) == DFLOW_END);
    CHECK(dflow_inputs_close(inputs) == DFLOW_OK);
}

static void *use(void *input) {
    /* The other thread waits in poll, with the input armed. */
    return (void *)(intptr_t)dflow_input_try_chunk(input, &data, &length);
}

static void wrong_order(dflow_context *context, dflow_input *input, dflow_output *output) {
    void *room = NULL;
    size_t size = 0, number = 0;
    dflow_view *view = NULL;
    FAILS(dflow_output_commit(output, 1), DFLOW_ERROR_STATE, "nothing is reserved");
    FAILS(dflow_output_reserve(output, 0, &room, &size), DFLOW_ERROR_ARGUMENT, "'length' is 0");
    FAILS(dflow_output_reserve(output, SIZE_MAX, &room, &size), DFLOW_ERROR_ARGUMENT, "more than memory can have");
    FAILS(dflow_output_reserve(output, (size_t)1 << 40, &room, &size), DFLOW_ERROR_LIMIT, "a window can have");
    FAILS(dflow_output_write(output, NULL, 1), DFLOW_ERROR_ARGUMENT, "'data' is NULL");
    CHECK(dflow_output_write(output, NULL, 0) == DFLOW_OK);
    CHECK(dflow_output_reserve(output, 10, &room, &size) == DFLOW_OK && size >= 10);
    FAILS(dflow_output_commit(output, size + 1), DFLOW_ERROR_ARGUMENT, "more than the");
    /* Another call gives the reservation back. */
    CHECK(dflow_output_write(output, "", 0) == DFLOW_OK);
    FAILS(dflow_output_commit(output, 1), DFLOW_ERROR_STATE, "nothing is reserved");
    FAILS(dflow_input_consume(input, 1), DFLOW_ERROR_ARGUMENT, "more than the 0");
    FAILS(dflow_input_view(input, 0, &view), DFLOW_ERROR_ARGUMENT, "'most' is 0");
    FAILS(dflow_input_read(input, NULL, 1, &number), DFLOW_ERROR_ARGUMENT, "'buffer' is NULL");
    FAILS(dflow_input_chunk((dflow_input *)output, &data, &length), DFLOW_ERROR_HANDLE, "not an open input");
    FAILS(dflow_input_chunk((dflow_input *)(uintptr_t)&number, &data, &length), DFLOW_ERROR_HANDLE, "not an open input");
    FAILS(dflow_view_release((dflow_view *)input), DFLOW_ERROR_HANDLE, "not an open view");
    CHECK(dflow_view_release(NULL) == DFLOW_OK);
    void *both[] = {input, input};
    FAILS(dflow_wait(context, both, 2, 0), DFLOW_ERROR_BUSY, "another thread");
    FAILS(dflow_wait(context, both, 0, 0), DFLOW_ERROR_ARGUMENT, "0 ports");
    FAILS(dflow_wait(context, NULL, 1, 0), DFLOW_ERROR_ARGUMENT, "'ports' is NULL");
    both[1] = context;
    FAILS(dflow_wait(context, both, 2, 0), DFLOW_ERROR_HANDLE, "neither");
}

/* Copies the input to the output, through every way of reading and writing. */
static void copy(dflow_context *context, dflow_input *input, dflow_output *output) {
    void *room = NULL;
    size_t size = 0, written = 0;
    uint64_t offset = 1;
    char buffer[100];
    dflow_view *view = NULL, *part = NULL;

    CHECK(dflow_input_position(input, &offset) == DFLOW_OK && offset == 0);
    CHECK(dflow_input_peek(input, &data, &length) == DFLOW_OK && length > 10);
    CHECK(dflow_output_write(output, data, 5) == DFLOW_OK);
    CHECK(dflow_input_consume(input, 5) == DFLOW_OK);
    FAILS(dflow_input_consume(input, length), DFLOW_ERROR_ARGUMENT, "more than the");
    CHECK(dflow_input_read(input, buffer, sizeof buffer, &size) == DFLOW_OK && size > 0);
    CHECK(dflow_output_try_write(output, buffer, size, &written) == DFLOW_OK && written == size);
    CHECK(dflow_input_position(input, &offset) == DFLOW_OK && offset == 5 + size);

    /* A line loses its newline. */
    CHECK(dflow_input_line(input, &data, &length) == DFLOW_OK);
    CHECK(dflow_output_write(output, data, length) == DFLOW_OK);
    CHECK(dflow_output_write(output, "\n", 1) == DFLOW_OK);

    CHECK(dflow_input_view(input, 1000, &view) == DFLOW_OK);
    CHECK(dflow_view_data(view, &data, &length) == DFLOW_OK && length > 0 && length <= 1000);
    FAILS(dflow_view_slice(view, length, 1, &part), DFLOW_ERROR_ARGUMENT, "not within");
    FAILS(dflow_view_slice(view, SIZE_MAX, SIZE_MAX, &part), DFLOW_ERROR_ARGUMENT, "not within");
    CHECK(dflow_view_slice(view, 1, length - 1, &part) == DFLOW_OK);
    CHECK(dflow_output_write(output, data, 1) == DFLOW_OK);
    CHECK(dflow_view_release(view) == DFLOW_OK);
    FAILS(dflow_view_data(view, &data, &length), DFLOW_ERROR_HANDLE, "not an open view");
    CHECK(dflow_view_data(part, &data, &length) == DFLOW_OK);
    CHECK(dflow_output_write(output, data, length) == DFLOW_OK);
    CHECK(dflow_view_offset(part, &offset) == DFLOW_OK && offset > 5);
    old_view = part;

    /* The rest in place, waiting by hand. */
    dflow_status status;
    void *ports[] = {input};
    while ((status = dflow_input_try_chunk(input, &data, &length)) != DFLOW_END) {
        if (status == DFLOW_WOULD_BLOCK) {
            CHECK(dflow_wait(context, ports, 1, 10000) == DFLOW_OK);
            continue;
        }
        CHECK(status == DFLOW_OK);
        if (status < 0) {
            return;
        }
        CHECK(dflow_output_reserve(output, length, &room, &size) == DFLOW_OK && size >= length);
        memcpy(room, data, length);
        CHECK(dflow_output_commit(output, length) == DFLOW_OK);
    }
    CHECK(dflow_input_chunk(input, &data, &length) == DFLOW_END);
    CHECK(dflow_output_written(output, &offset) == DFLOW_OK && offset > 0);
}

/* Waits with poll for an input that comes through a pipe. */
static void wait_by_poll(dflow_context *context) {
    dflow_input *input = NULL;
    dflow_output *output = NULL;
    dflow_poller *poller = NULL;
    dflow_status status;
    int descriptor = -1;
    CHECK(dflow_input_open(context, "in", &input) == DFLOW_OK);
    CHECK(dflow_output_open(context, "out", &output) == DFLOW_OK);
    CHECK(dflow_poller_open(context, &poller) == DFLOW_OK);
    CHECK(dflow_poller_descriptor(poller, &descriptor) == DFLOW_OK && descriptor >= 0);
    void *ports[] = {input};
    int armed = 0;
    while ((status = dflow_input_try_chunk(input, &data, &length)) != DFLOW_END) {
        if (status == DFLOW_OK) {
            CHECK(dflow_output_write(output, data, length) == DFLOW_OK);
            continue;
        }
        CHECK(status == DFLOW_WOULD_BLOCK);
        if (status < 0) {
            return;
        }
        status = dflow_poller_arm(poller, ports, 1);
        if (status == DFLOW_READY) {
            continue;
        }
        CHECK(status == DFLOW_OK);
        armed += 1;
        FAILS(dflow_poller_arm(poller, ports, 1), DFLOW_ERROR_STATE, "armed already");
        pthread_t other;
        void *result = NULL;
        CHECK(pthread_create(&other, NULL, use, input) == 0);
        pthread_join(other, &result);
        CHECK((dflow_status)(intptr_t)result == DFLOW_ERROR_STATE);
        struct pollfd wait = {.fd = descriptor, .events = POLLIN};
        CHECK(poll(&wait, 1, 20000) == 1);
        CHECK(dflow_poller_disarm(poller) == DFLOW_OK);
    }
    CHECK(armed > 0);
    /* An armed port is released with its poller. */
    CHECK(dflow_poller_close(poller) == DFLOW_OK);
    FAILS(dflow_poller_disarm(poller), DFLOW_ERROR_HANDLE, "not an open poller");
}

static void *interrupt(void *context) {
    return (void *)(intptr_t)dflow_interrupt(context);
}

/* Waits for an input that does not come before it is interrupted. */
static void interrupted(dflow_context *context) {
    dflow_input *input = NULL;
    dflow_output *output = NULL;
    dflow_status status;
    pthread_t other;
    CHECK(dflow_input_open(context, "in", &input) == DFLOW_OK);
    CHECK(dflow_output_open(context, "out", &output) == DFLOW_OK);
    CHECK(pthread_create(&other, NULL, interrupt, context) == 0);
    while ((status = dflow_input_chunk(input, &data, &length)) == DFLOW_OK) {
    }
    CHECK(status == DFLOW_INTERRUPTED);
    pthread_join(other, NULL);
    /* It says so until it is cleared. */
    CHECK(dflow_input_line(input, &data, &length) == DFLOW_INTERRUPTED);
    CHECK(dflow_interrupt_clear(context) == DFLOW_OK);
    void *ports[] = {input};
    CHECK(dflow_wait(context, ports, 1, 1) == DFLOW_TIMED_OUT);
    CHECK(dflow_output_write(output, "go", 2) == DFLOW_OK);
    CHECK(dflow_output_finish(output) == DFLOW_OK);
    FAILS(dflow_output_write(output, "more", 4), DFLOW_ERROR_HANDLE, "not an open output");
    while ((status = dflow_input_chunk(input, &data, &length)) == DFLOW_OK) {
    }
    CHECK(status == DFLOW_END);
}

static int in_a_forked_process(dflow_input *input) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        FAILS(dflow_input_chunk(input, &data, &length), DFLOW_ERROR_STATE, "was forked");
        _exit(wrong);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return status == 0;
}

static int work(dflow_context *context, void *given) {
    const char *mode = "all";
    CHECK(given == &wrong);
    CHECK(dflow_param(context, "mode", &mode, &length) >= 0);
    old_context = context;
    if (!strcmp(mode, "poll")) {
        wait_by_poll(context);
    } else if (!strcmp(mode, "interrupt")) {
        interrupted(context);
    } else if (!strcmp(mode, "fail")) {
        return dflow_fail(context, "no such luck");
    } else if (!strcmp(mode, "number")) {
        return 17;
    } else if (!strcmp(mode, "return from a fork")) {
        /* The child returns as if it were the function; the parent goes on. */
        pid_t child = fork();
        if (child == 0) {
            return DFLOW_OK;
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        dflow_output *output = NULL;
        CHECK(dflow_output_open(context, "out", &output) == DFLOW_OK);
        CHECK(dflow_output_write(output, "the parent", 10) == DFLOW_OK);
    } else if (!strcmp(mode, "unread")) {
        dflow_output *output = NULL;
        dflow_status status;
        CHECK(dflow_output_open(context, "out", &output) == DFLOW_OK);
        while ((status = dflow_output_write(output, "again and again\n", 16)) == DFLOW_OK) {
        }
        CHECK(status == DFLOW_ERROR_UNREAD);
        return wrong ? DFLOW_ERROR_FAILED : status;
    } else {
        names_and_parameters(context);
        CHECK(dflow_input_open(context, "in", &old_input) == DFLOW_OK);
        CHECK(dflow_output_open(context, "out", &old_output) == DFLOW_OK);
        wrong_order(context, old_input, old_output);
        CHECK(in_a_forked_process(old_input));
        copy(context, old_input, old_output);
    }
    return wrong ? dflow_fail(context, "some checks have failed") : DFLOW_OK;
}

int main(int argc, char **argv) {
    FAILS(dflow_input_chunk(NULL, &data, &length), DFLOW_ERROR_ARGUMENT, "'input' is NULL");
    CHECK(strcmp(dflow_status_name(DFLOW_ERROR_UNREAD), "DFLOW_ERROR_UNREAD") == 0);
    CHECK(strcmp(dflow_status_name(-1000), "an unknown status") == 0);
    CHECK(strlen(dflow_version()) > 0);
    CHECK(dflow_serve(argc, argv, NULL, NULL) == 2);

    int status = dflow_serve(argc, argv, work, &wrong);

    /* What is left of the function is an error, except views. */
    if (old_input) {
        FAILS(dflow_input_chunk(old_input, &data, &length), DFLOW_ERROR_HANDLE, "has ended");
        FAILS(dflow_output_write(old_output, "x", 1), DFLOW_ERROR_HANDLE, "has ended");
        CHECK(dflow_view_data(old_view, &data, &length) == DFLOW_OK);
        size_t newlines = 0;
        for (size_t at = 0; at < length; at++) {
            newlines += ((const char *)data)[at] == '\n';
        }
        CHECK(newlines > 0);
        CHECK(dflow_view_release(old_view) == DFLOW_OK);
    }
    FAILS(dflow_instance(old_context, (const char **)&data), DFLOW_ERROR_HANDLE, "has ended");
    return status ? status : wrong;
}
