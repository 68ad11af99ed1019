/*
 * dflow.h: functions of dflow workflows in C.
 *
 * A program's main function hands its work to dflow_serve. The work opens inputs and outputs by the names that the
 * workflow file gives them.
 *
 * Every call returns a status: DFLOW_OK, another number from 0 on that is no error, or a negative one with a text in
 * dflow_last_error. A handle that is NULL, closed or of another kind is an error, and so is a pointer that is NULL. A handle
 * is used by one thread at a time, except a context. Names and texts are UTF-8 and end with a NUL.
 *
 * A call whose name contains 'try' does not wait. All others wait for bytes or room, and dflow may give the function's
 * slot to another one meanwhile.
 *
 * Generated from the sources of the library. Do not edit it.
 */


#ifndef DFLOW_H
#define DFLOW_H

#include <stddef.h>
#include <stdint.h>

// How a call ended. Errors are negative; `dflow_last_error` has the text of the last one.
typedef enum dflow_status {
  // It is done.
  DFLOW_OK = 0,
  // The stream, or the list of streams, has ended.
  DFLOW_END = 1,
  // Nothing is there at present, or there is no room: wait, and try again. Only calls whose name contains `try`.
  DFLOW_WOULD_BLOCK = 2,
  // The time limit of a wait has passed.
  DFLOW_TIMED_OUT = 3,
  // `dflow_interrupt` has ended a wait. Nothing is lost; call again after `dflow_interrupt_clear`.
  DFLOW_INTERRUPTED = 4,
  // The parameter, or the part, is not set.
  DFLOW_UNSET = 5,
  // A port may be able to go on already, so nothing was armed: try again.
  DFLOW_READY = 6,
  // An argument is `NULL` or out of its range.
  DFLOW_ERROR_ARGUMENT = -1,
  // A handle is closed, or it is not one of this kind.
  DFLOW_ERROR_HANDLE = -2,
  // Another thread is using the handle.
  DFLOW_ERROR_BUSY = -3,
  // The call is not possible at this point, such as a commit without a reservation.
  DFLOW_ERROR_STATE = -4,
  // There is no such input, output or parameter, or it has another form, or it was opened before.
  DFLOW_ERROR_NAME = -5,
  // A parameter is not a number, or not one in the range of its type.
  DFLOW_ERROR_VALUE = -6,
  // The input was given up by its producer, cannot be read, or does not hold lines or records.
  DFLOW_ERROR_INPUT = -7,
  // The output cannot be written.
  DFLOW_ERROR_OUTPUT = -8,
  // Nobody reads the output any more. A function that returns this has not failed.
  DFLOW_ERROR_UNREAD = -9,
  // A limit is reached; the text names it.
  DFLOW_ERROR_LIMIT = -10,
  // The connection with dflow is lost or the system refused something.
  DFLOW_ERROR_SYSTEM = -11,
  // An error in dflow itself. Please report it.
  DFLOW_ERROR_INTERNAL = -12,
  // The function has failed for a reason of its own: what `dflow_fail` returns.
  DFLOW_ERROR_FAILED = -13,
} dflow_status;

// An attempt of a function. Any number of threads may use it at the same time.
typedef struct dflow_context dflow_context;

// An open input: one stream. Bytes that are not yet read, and views that are not yet released, hold the producer back.
typedef struct dflow_input dflow_input;

// An open list of streams: an input with several sources, or all parts of a partitioned one. More may come while the
// function runs.
typedef struct dflow_inputs dflow_inputs;

// An open output: one stream. Its readers may read what is committed while the function goes on.
typedef struct dflow_output dflow_output;

// The parts of an output with a fixed number of them.
typedef struct dflow_outputs dflow_outputs;

// An output with `partition: discovered`: its parts are opened while the function runs.
typedef struct dflow_partition dflow_partition;

// A descriptor that becomes readable when ports can go on: for `poll`, `epoll` and event loops.
typedef struct dflow_poller dflow_poller;

// Bytes of a stream that stay where they are and as they are until the view is released, after the end of its input and
// of its function, too.
typedef struct dflow_view dflow_view;

// A function of a workflow: it opens its inputs and outputs by their names in `context`, and returns DFLOW_OK, or any other
// number if it has failed. `data` is what was given to `dflow_serve`. The reason is the text of `dflow_fail`, or of the
// error of dflow that it returns. It must return: an exception of C++ must not leave it, nor a `longjmp`.
typedef int (*dflow_function)(struct dflow_context *context, void *data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The name of this instance, such as `count[3]`. It stays valid until the function returns.
enum dflow_status dflow_instance(struct dflow_context *context, const char **name);

// In a `foreach`, the number of the part that this instance works on. DFLOW_UNSET if there is none.
enum dflow_status dflow_part(struct dflow_context *context, uint32_t *part);

// In a `foreach` over files, the path of this instance's file as the command line names it: for a label, because on
// another node there may be no such file. It stays valid until the function returns. DFLOW_UNSET if there is none.
enum dflow_status dflow_part_file(struct dflow_context *context, const char **path);

// The number of this attempt of the instance, from 1 on.
enum dflow_status dflow_attempt(struct dflow_context *context, uint32_t *attempt);

// The text of a parameter, with a NUL behind it, and its length without that. It stays valid until the function returns.
// DFLOW_UNSET if the workflow file does not set it, and DFLOW_ERROR_NAME if it sets one whose name is nearly the same.
enum dflow_status dflow_param(struct dflow_context *context,
                              const char *name,
                              const char **text,
                              size_t *length);

// The value of a parameter that is a whole number. DFLOW_UNSET if the workflow file does not set it; then `value` is left
// as it is, so that it may hold a default.
enum dflow_status dflow_param_int(struct dflow_context *context,
                                  const char *name,
                                  int64_t *value);

// The value of a parameter that is a number. DFLOW_UNSET if the workflow file does not set it; then `value` is left as it
// is, so that it may hold a default.
enum dflow_status dflow_param_double(struct dflow_context *context,
                                     const char *name,
                                     double *value);

// Says why the function fails. It returns DFLOW_ERROR_FAILED, for `return dflow_fail(context, "…")`: the attempt fails with
// this message once the function returns anything but DFLOW_OK. Of several messages the first counts.
enum dflow_status dflow_fail(struct dflow_context *context,
                             const char *message);

// Ends all present waits of this attempt with DFLOW_INTERRUPTED, and all later ones at once, until
// `dflow_interrupt_clear`. For any thread; not for a signal handler.
enum dflow_status dflow_interrupt(struct dflow_context *context);

// Lets this attempt wait again after `dflow_interrupt`.
enum dflow_status dflow_interrupt_clear(struct dflow_context *context);

// Opens the input of this name as a list of streams, once; a single stream is a list of one.
enum dflow_status dflow_inputs_open(struct dflow_context *context, const char *name, struct dflow_inputs **inputs);

// The next stream in order; waits for it if more may come. DFLOW_END when all have been taken.
enum dflow_status dflow_inputs_next(struct dflow_inputs *inputs, struct dflow_input **input);

// Like `dflow_inputs_next`, but DFLOW_WOULD_BLOCK if more streams may come and none is there.
enum dflow_status dflow_inputs_try_next(struct dflow_inputs *inputs, struct dflow_input **input);

// All bytes that one of the streams has now, whichever has some, and its number in the list; waits for them. DFLOW_END when
// all have ended. The bytes may be read until the next call with this list. Which stream it is depends on time, so a
// function that uses this is not `deterministic` unless its output does not depend on the order.
enum dflow_status dflow_inputs_ready(struct dflow_inputs *inputs,
                                     uint32_t *number,
                                     const void **data,
                                     size_t *length);

// How many streams there are; waits until that is known.
enum dflow_status dflow_inputs_count(struct dflow_inputs *inputs, uint32_t *count);

// Closes a list: none of the streams that were not taken from it will be read.
enum dflow_status dflow_inputs_close(struct dflow_inputs *inputs);

// The next line of an input, without its newline; waits for it. A last line without a newline counts. DFLOW_END at the end
// of the stream. The line may be read until the next call with this input.
enum dflow_status dflow_input_line(struct dflow_input *input,
                                   const void **data,
                                   size_t *length);

// Like `dflow_input_line`, but DFLOW_WOULD_BLOCK if the line has not come as a whole. The next call continues with it, and
// must be one of these two.
enum dflow_status dflow_input_try_line(struct dflow_input *input,
                                       const void **data,
                                       size_t *length);

// The next record of an input, as `dflow_output_record` writes them (a little-endian 32-bit length, and so many bytes);
// waits for it. DFLOW_END at the end of the stream. The record may be read until the next call with this input.
enum dflow_status dflow_input_record(struct dflow_input *input, const void **data, size_t *length);

// Like `dflow_input_record`, but DFLOW_WOULD_BLOCK if the record has not come as a whole. The next call continues with it,
// and must be one of these two.
enum dflow_status dflow_input_try_record(struct dflow_input *input,
                                         const void **data,
                                         size_t *length);

// Writes one record of at most 64 MiB: its length as a little-endian 32-bit number, and its bytes.
enum dflow_status dflow_output_record(struct dflow_output *output, const void *data, size_t length);

// Opens the input of this name, which is one stream, once. A list of streams (a fan-in) is opened with `dflow_inputs_open`.
enum dflow_status dflow_input_open(struct dflow_context *context,
                                   const char *name,
                                   struct dflow_input **input);

// All bytes that are there now, in the memory that the producer wrote them to; waits for the first. DFLOW_END at the end of
// the stream. They may be read until the next call with this input. How a stream is cut into chunks depends on time and has
// no meaning.
enum dflow_status dflow_input_chunk(struct dflow_input *input,
                                    const void **data,
                                    size_t *length);

// Like `dflow_input_chunk`, but DFLOW_WOULD_BLOCK if there are no bytes at present.
enum dflow_status dflow_input_try_chunk(struct dflow_input *input, const void **data, size_t *length);

// All bytes that are there now, like `dflow_input_chunk`, without moving past them: `dflow_input_consume` does.
enum dflow_status dflow_input_peek(struct dflow_input *input, const void **data, size_t *length);

// Moves past the first `length` of the bytes that `dflow_input_peek` has just shown.
enum dflow_status dflow_input_consume(struct dflow_input *input, size_t length);

// Copies the next bytes, at most `capacity`, to `buffer`, and says how many; waits for the first. DFLOW_END at the end of
// the stream.
enum dflow_status dflow_input_read(struct dflow_input *input,
                                   void *buffer,
                                   size_t capacity,
                                   size_t *length);

// The next bytes, at most `most`, as a view, which may be kept after the next call and after the function has closed the
// input; waits for the first. Release it with `dflow_view_release`. DFLOW_END at the end of the stream.
//
// Nothing is copied until the views of an input cover 64 MiB. A view that is kept holds the producer back like bytes that
// are not read.
enum dflow_status dflow_input_view(struct dflow_input *input,
                                   size_t most,
                                   struct dflow_view **view);

// Like `dflow_input_view`, but DFLOW_WOULD_BLOCK if there are no bytes at present.
enum dflow_status dflow_input_try_view(struct dflow_input *input, size_t most, struct dflow_view **view);

// Waits until the stream has at least `length` bytes in all or is finished, and says how many it has (`have` may be
// `NULL`); with SIZE_MAX for the whole stream. Only for an input with `keep: true` or `gate: whole` in the workflow file.
enum dflow_status dflow_input_wait_for(struct dflow_input *input,
                                       size_t length,
                                       size_t *have);

// Everything from the first byte of the stream to the last that is there now, in one piece and in place. It may be read
// until the next call with this input. Only for an input with `keep: true` or `gate: whole` in the workflow file.
enum dflow_status dflow_input_so_far(struct dflow_input *input, const void **data, size_t *length);

// `dflow_input_so_far` as a view.
enum dflow_status dflow_input_view_so_far(struct dflow_input *input, struct dflow_view **view);

// The offset in the stream of the next byte.
enum dflow_status dflow_input_position(struct dflow_input *input, uint64_t *offset);

// Says that nothing more will be read, so that the producer need not wait for this reader, and closes the handle. What is
// not closed is closed when the function returns.
enum dflow_status dflow_input_close(struct dflow_input *input);

// Opens the output of this name, which is one stream, once. One with parts is opened with `dflow_outputs_open` or
// `dflow_partition_open`.
enum dflow_status dflow_output_open(struct dflow_context *context, const char *name, struct dflow_output **output);

// Writes and commits all of these bytes; waits for room. After DFLOW_INTERRUPTED, `dflow_output_written` tells how many
// have been.
enum dflow_status dflow_output_write(struct dflow_output *output, const void *data, size_t length);

// Writes and commits as many of these bytes as there is room for, and says how many. DFLOW_WOULD_BLOCK if there is no room.
enum dflow_status dflow_output_try_write(struct dflow_output *output,
                                         const void *data,
                                         size_t length,
                                         size_t *written);

// Room for at least `length` bytes in the stream itself, at most 256 MiB, to be filled and then committed with
// `dflow_output_commit`; waits for it. `room` is how long it is, which may be more. What is in it before it is filled has no
// meaning. It may be written until the next call with this output. A reservation that is not committed is given back by the
// next call with the output.
enum dflow_status dflow_output_reserve(struct dflow_output *output,
                                       size_t length,
                                       void **data,
                                       size_t *room);

// Like `dflow_output_reserve`, but DFLOW_WOULD_BLOCK if there is no such room at present.
enum dflow_status dflow_output_try_reserve(struct dflow_output *output, size_t length, void **data, size_t *room);

// Makes the first `length` bytes of the reserved room readable. It may wait where the room did not fit into the rest of the
// stream's window; after DFLOW_INTERRUPTED, they are committed and will be there with the next call.
enum dflow_status dflow_output_commit(struct dflow_output *output,
                                      size_t length);

// Like `dflow_output_commit`, but never waits. After DFLOW_WOULD_BLOCK the bytes are committed, and some of them become
// readable with a later call.
enum dflow_status dflow_output_try_commit(struct dflow_output *output, size_t length);

// How many bytes have been committed.
enum dflow_status dflow_output_written(struct dflow_output *output, uint64_t *length);

// Finishes the stream, so that its readers reach its end while the function continues, and closes the handle. Outputs that
// are not finished are when the function returns DFLOW_OK, and are discarded when it fails.
enum dflow_status dflow_output_finish(struct dflow_output *output);

// Opens an output with a fixed number of parts, such as `partition: 8`, once, and says how many there are. A single stream
// is a list of one.
enum dflow_status dflow_outputs_open(struct dflow_context *context,
                                     const char *name,
                                     struct dflow_outputs **outputs,
                                     uint32_t *count);

// The output that is this part of a list, from 0 on. Each call with the same part gives the same handle.
enum dflow_status dflow_outputs_part(struct dflow_outputs *outputs, uint32_t part, struct dflow_output **output);

// Opens an output with `partition: discovered`, once.
enum dflow_status dflow_partition_open(struct dflow_context *context,
                                       const char *name,
                                       struct dflow_partition **partition);

// Opens one more part. Every `foreach` over this output gets one more instance, which starts reading at once.
// DFLOW_ERROR_LIMIT if there are too many.
enum dflow_status dflow_partition_next(struct dflow_partition *partition, struct dflow_output **output);

// Makes a poller, which has a thread of its own. The order of calls is: try every port; arm those that would block; wait
// until the descriptor is readable; disarm; try again.
enum dflow_status dflow_poller_open(struct dflow_context *context,
                                    struct dflow_poller **poller);

// The descriptor to be watched for reading. It belongs to the poller: do not read, write or close it.
enum dflow_status dflow_poller_descriptor(struct dflow_poller *poller, int *descriptor);

// Arms the descriptor for these ports, inputs or outputs that would block. They cannot be used until
// `dflow_poller_disarm`. DFLOW_READY if one may be able to go on already: nothing is armed, try again. Arm only while the
// function has nothing else to do: dflow may give its slot to another meanwhile.
enum dflow_status dflow_poller_arm(struct dflow_poller *poller,
                                   void *const *ports,
                                   size_t count);

// Arms the descriptor for a list of streams, for which `dflow_inputs_try_next` would block: a stream that is in it may be
// able to go on, or another has come. It must not be used until `dflow_poller_disarm`. DFLOW_READY as for
// `dflow_poller_arm`.
enum dflow_status dflow_poller_arm_inputs(struct dflow_poller *poller,
                                          struct dflow_inputs *inputs);

// Ends the arming, whether or not the descriptor has become readable. It is not readable any more.
enum dflow_status dflow_poller_disarm(struct dflow_poller *poller);

// Disarms and closes a poller and its descriptor.
enum dflow_status dflow_poller_close(struct dflow_poller *poller);

// Serves a function: call this from `main` and return its result, the exit status. Under dflow the program works for the
// run that has started it. Started by hand, it runs alone on the files that its arguments name; `--help` says how. `argc` may
// be 0: then the arguments are those of the process. A program that runs alone ignores SIGPIPE.
//
// Handles that the function leaves open are closed when it returns, except views.
int dflow_serve(int argc,
                char *const *argv,
                dflow_function function,
                void *data);

// The text of the last error in this thread; empty if there was none. It is never `NULL`, and stays valid until the next
// call of a dflow function in this thread that fails. Successful calls leave it as it is.
const char *dflow_last_error(void);

// The name of a code, such as `DFLOW_ERROR_UNREAD`. It is never `NULL`, and valid for ever.
const char *dflow_status_name(int status);

// The release of the library, such as `0.1.0`. It is never `NULL`, and valid for ever.
const char *dflow_version(void);

// The bytes of a view. They may be read, by any thread, until the view is released.
enum dflow_status dflow_view_data(struct dflow_view *view, const void **data, size_t *length);

// The offset in the stream of a view's first byte.
enum dflow_status dflow_view_offset(struct dflow_view *view, uint64_t *offset);

// A view of `length` of a view's bytes, from its byte `start` on. It is released on its own, and keeps all memory of the
// first one.
enum dflow_status dflow_view_slice(struct dflow_view *view,
                                   size_t start,
                                   size_t length,
                                   struct dflow_view **part);

// Releases a view, from any thread. Its bytes must not be read any more. `NULL` is left alone, as by `free`.
enum dflow_status dflow_view_release(struct dflow_view *view);

// Waits until a call with one of these ports, inputs or outputs, may find something: bytes, an end, or room. Call the
// `try` function of each after it. Do not wait for an input that has ended: it is always ready. DFLOW_TIMED_OUT after
// `timeout` milliseconds; a negative one is no limit.
enum dflow_status dflow_wait(struct dflow_context *context, void *const *ports, size_t count, int64_t timeout);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DFLOW_H */
