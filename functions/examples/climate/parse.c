/* Turns lines such as "Bergen;-3.5" into the numbers behind the semicolon, each as the 8 bytes of a double. Lines without
 * such a number are counted and left out; with the parameter strict: 1 they are an error. */

#include <dflow.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How many numbers are written at once. */
enum { BATCH = 4096 };

/* The longest number that is read, in characters. */
enum { LONGEST = 63 };

/* The number behind the semicolon of a line; 0 if there is none. A line is not followed by a NUL, so it is copied. */
static int number_of(const char *line, size_t length, double *value) {
    char text[LONGEST + 1];
    const char *semicolon = memchr(line, ';', length);
    if (!semicolon) {
        return 0;
    }
    size_t digits = length - (size_t)(semicolon + 1 - line);
    if (digits == 0 || digits > LONGEST) {
        return 0;
    }
    memcpy(text, semicolon + 1, digits);
    text[digits] = '\0';
    char *end = NULL;
    *value = strtod(text, &end);
    return end == text + digits && isfinite(*value);
}

static int parse(dflow_context *context, void *data) {
    (void)data;
    dflow_input *lines = NULL;
    dflow_output *values = NULL;
    int64_t strict = 0;
    dflow_status status;
    if ((status = dflow_param_int(context, "strict", &strict)) < 0 ||
        (status = dflow_input_open(context, "lines", &lines)) < 0 ||
        (status = dflow_output_open(context, "values", &values)) < 0) {
        return status;
    }

    const void *line = NULL;
    size_t length = 0;
    uint64_t number = 0, left_out = 0;
    double *room = NULL;
    size_t filled = 0;
    while ((status = dflow_input_line(lines, &line, &length)) == DFLOW_OK) {
        double value;
        number += 1;
        if (!number_of(line, length, &value)) {
            if (strict) {
                char message[100];
                snprintf(message, sizeof message, "line %llu has no number behind a ';'", (unsigned long long)number);
                return dflow_fail(context, message);
            }
            left_out += 1;
            continue;
        }
        if (!room) {
            /* The numbers are written where their readers find them. Streams are bytes, so a room may begin anywhere. */
            void *bytes = NULL;
            size_t size = 0;
            if ((status = dflow_output_reserve(values, BATCH * sizeof value, &bytes, &size)) < 0) {
                return status;
            }
            room = bytes;
        }
        memcpy((char *)room + filled * sizeof value, &value, sizeof value);
        filled += 1;
        if (filled == BATCH) {
            if ((status = dflow_output_commit(values, filled * sizeof value)) < 0) {
                return status;
            }
            room = NULL;
            filled = 0;
        }
    }
    if (status == DFLOW_END && filled > 0) {
        status = dflow_output_commit(values, filled * sizeof(double));
    }
    if (status < 0) {
        return status;
    }
    if (left_out > 0) {
        fprintf(stderr, "%llu of %llu lines have no number behind a ';'\n", (unsigned long long)left_out,
                (unsigned long long)number);
    }
    return DFLOW_OK;
}

int main(int argc, char **argv) {
    return dflow_serve(argc, argv, parse, NULL);
}
