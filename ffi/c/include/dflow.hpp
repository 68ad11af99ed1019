/*
 * dflow.hpp: functions of dflow workflows in C++17, over dflow.h.
 *
 * Errors are exceptions, and what is open is closed by destructors:
 *
 *     #include <dflow.hpp>
 *
 *     int main(int argc, char **argv) {
 *         return dflow::serve(argc, argv, [](dflow::context &context) {
 *             auto text = context.input("text");
 *             auto out = context.output("out");
 *             while (auto chunk = text.chunk()) {
 *                 out.write(*chunk);
 *             }
 *         });
 *     }
 *
 * A function that ends with an exception has failed; its text is the reason. Bytes are std::string_view: what chunk, line,
 * record, peek and so_far return may be read until the next call with the same input, and a view for as long as it lives.
 */

#ifndef DFLOW_HPP
#define DFLOW_HPP

#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dflow.h"

namespace dflow {

/* An error of dflow. A function that lets it through has failed, unless the output has no reader left. */
class error : public std::runtime_error {
public:
    error(dflow_status status, const char *text) : std::runtime_error(text), status_(status) {}

    dflow_status status() const noexcept { return status_; }

    /* Nobody reads the output any more: no failure. */
    bool is_unread() const noexcept { return status_ == DFLOW_ERROR_UNREAD; }

private:
    dflow_status status_;
};

/* Throws if a status is an error or an interruption; gives it back otherwise. */
inline dflow_status check(dflow_status status) {
    if (status < 0) {
        throw error(status, dflow_last_error());
    }
    if (status == DFLOW_INTERRUPTED) {
        throw error(status, "a wait was interrupted");
    }
    return status;
}

namespace detail {

/* A handle that is closed at the end of its scope. A handle that has ended with its function is left alone. */
template <typename T, dflow_status (*Close)(T *)>
class handle {
public:
    handle() = default;
    explicit handle(T *raw) noexcept : raw_(raw) {}
    handle(handle &&other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
    handle &operator=(handle &&other) noexcept {
        std::swap(raw_, other.raw_);
        return *this;
    }
    handle(const handle &) = delete;
    handle &operator=(const handle &) = delete;
    ~handle() {
        if (raw_) {
            Close(raw_);
        }
    }

    T *get() const noexcept { return raw_; }
    T **place() noexcept { return &raw_; }
    T *release() noexcept { return std::exchange(raw_, nullptr); }

private:
    T *raw_ = nullptr;
};

inline std::string_view bytes(const void *data, std::size_t length) {
    return {static_cast<const char *>(data), length};
}

/* Bytes, unless the stream has ended. */
template <typename Handle, typename Call>
std::optional<std::string_view> next(Handle *handle, Call call) {
    const void *data = nullptr;
    std::size_t length = 0;
    if (check(call(handle, &data, &length)) == DFLOW_END) {
        return std::nullopt;
    }
    return bytes(data, length);
}

}  // namespace detail

/* Bytes that stay where they are for as long as this lives. */
class view {
public:
    explicit view(dflow_view *raw) : handle_(raw) {}

    std::string_view bytes() const {
        const void *data = nullptr;
        std::size_t length = 0;
        check(dflow_view_data(handle_.get(), &data, &length));
        return detail::bytes(data, length);
    }

    dflow_view *get() const noexcept { return handle_.get(); }

private:
    detail::handle<dflow_view, dflow_view_release> handle_;
};

/* One input stream: see dflow.h for each of the calls. */
class input {
public:
    explicit input(dflow_input *raw) : handle_(raw) {}

    std::optional<std::string_view> chunk() { return detail::next(get(), dflow_input_chunk); }
    std::optional<std::string_view> line() { return detail::next(get(), dflow_input_line); }
    std::optional<std::string_view> record() { return detail::next(get(), dflow_input_record); }
    std::optional<std::string_view> peek() { return detail::next(get(), dflow_input_peek); }
    void consume(std::size_t length) { check(dflow_input_consume(get(), length)); }

    /* The next bytes, at most so many, as a view. */
    std::optional<dflow::view> view(std::size_t most) {
        dflow_view *raw = nullptr;
        if (check(dflow_input_view(get(), most, &raw)) == DFLOW_END) {
            return std::nullopt;
        }
        return dflow::view(raw);
    }

    /* For inputs that are kept: waits for so many bytes, and gives everything so far. */
    std::string_view so_far(std::size_t length = SIZE_MAX) {
        check(dflow_input_wait_for(get(), length, nullptr));
        const void *data = nullptr;
        std::size_t have = 0;
        check(dflow_input_so_far(get(), &data, &have));
        return detail::bytes(data, have);
    }

    dflow_input *get() const noexcept { return handle_.get(); }

private:
    detail::handle<dflow_input, dflow_input_close> handle_;
};

/* A list of input streams. */
class inputs {
public:
    explicit inputs(dflow_inputs *raw) : handle_(raw) {}

    /* The next stream in order. */
    std::optional<input> next() {
        dflow_input *raw = nullptr;
        if (check(dflow_inputs_next(get(), &raw)) == DFLOW_END) {
            return std::nullopt;
        }
        return input(raw);
    }

    /* Bytes of whichever stream has some, with its number. */
    std::optional<std::pair<std::uint32_t, std::string_view>> ready() {
        std::uint32_t number = 0;
        const void *data = nullptr;
        std::size_t length = 0;
        if (check(dflow_inputs_ready(get(), &number, &data, &length)) == DFLOW_END) {
            return std::nullopt;
        }
        return std::make_pair(number, detail::bytes(data, length));
    }

    std::uint32_t count() {
        std::uint32_t count = 0;
        check(dflow_inputs_count(get(), &count));
        return count;
    }

    dflow_inputs *get() const noexcept { return handle_.get(); }

private:
    detail::handle<dflow_inputs, dflow_inputs_close> handle_;
};

/* Room in an output, to be filled and committed. */
struct room {
    char *data;
    std::size_t length;
};

/* One output stream. It is finished when the function returns, or by finish; not by its destructor. */
class output {
public:
    explicit output(dflow_output *raw) noexcept : raw_(raw) {}

    void write(std::string_view bytes) { check(dflow_output_write(raw_, bytes.data(), bytes.size())); }
    void record(std::string_view bytes) { check(dflow_output_record(raw_, bytes.data(), bytes.size())); }

    /* Room for at least so many bytes in the stream itself. */
    room reserve(std::size_t length) {
        void *data = nullptr;
        std::size_t have = 0;
        check(dflow_output_reserve(raw_, length, &data, &have));
        return {static_cast<char *>(data), have};
    }

    void commit(std::size_t length) { check(dflow_output_commit(raw_, length)); }

    std::uint64_t written() const {
        std::uint64_t length = 0;
        check(dflow_output_written(raw_, &length));
        return length;
    }

    void finish() { check(dflow_output_finish(raw_)); }

    dflow_output *get() const noexcept { return raw_; }

private:
    dflow_output *raw_;
};

/* An output whose parts are opened while the function runs. */
class partition {
public:
    explicit partition(dflow_partition *raw) noexcept : raw_(raw) {}

    output next() {
        dflow_output *raw = nullptr;
        check(dflow_partition_next(raw_, &raw));
        return output(raw);
    }

private:
    dflow_partition *raw_;
};

/* An attempt of a function. */
class context {
public:
    explicit context(dflow_context *raw) noexcept : raw_(raw) {}

    std::string instance() const {
        const char *name = nullptr;
        check(dflow_instance(raw_, &name));
        return name;
    }

    std::optional<std::uint32_t> part() const {
        std::uint32_t part = 0;
        return check(dflow_part(raw_, &part)) == DFLOW_UNSET ? std::nullopt : std::make_optional(part);
    }

    std::uint32_t attempt() const {
        std::uint32_t attempt = 0;
        check(dflow_attempt(raw_, &attempt));
        return attempt;
    }

    std::optional<std::string> param(const std::string &name) const {
        const char *text = nullptr;
        std::size_t length = 0;
        if (check(dflow_param(raw_, name.c_str(), &text, &length)) == DFLOW_UNSET) {
            return std::nullopt;
        }
        return std::string(text, length);
    }

    std::int64_t param_int(const std::string &name, std::int64_t otherwise) const {
        check(dflow_param_int(raw_, name.c_str(), &otherwise));
        return otherwise;
    }

    double param_double(const std::string &name, double otherwise) const {
        check(dflow_param_double(raw_, name.c_str(), &otherwise));
        return otherwise;
    }

    dflow::input input(const std::string &name) {
        dflow_input *raw = nullptr;
        check(dflow_input_open(raw_, name.c_str(), &raw));
        return dflow::input(raw);
    }

    dflow::inputs inputs(const std::string &name) {
        dflow_inputs *raw = nullptr;
        check(dflow_inputs_open(raw_, name.c_str(), &raw));
        return dflow::inputs(raw);
    }

    dflow::output output(const std::string &name) {
        dflow_output *raw = nullptr;
        check(dflow_output_open(raw_, name.c_str(), &raw));
        return dflow::output(raw);
    }

    /* The parts of an output with a fixed number of them. */
    std::vector<dflow::output> outputs(const std::string &name) {
        dflow_outputs *list = nullptr;
        std::uint32_t count = 0;
        check(dflow_outputs_open(raw_, name.c_str(), &list, &count));
        std::vector<dflow::output> parts;
        for (std::uint32_t part = 0; part < count; ++part) {
            dflow_output *raw = nullptr;
            check(dflow_outputs_part(list, part, &raw));
            parts.emplace_back(raw);
        }
        return parts;
    }

    dflow::partition partition(const std::string &name) {
        dflow_partition *raw = nullptr;
        check(dflow_partition_open(raw_, name.c_str(), &raw));
        return dflow::partition(raw);
    }

    dflow_context *get() const noexcept { return raw_; }

private:
    dflow_context *raw_;
};

namespace detail {

/* Runs the work, so that no exception reaches C. */
inline int call(dflow_context *raw, void *data) noexcept {
    try {
        context wrapped(raw);
        (*static_cast<std::function<void(context &)> *>(data))(wrapped);
        return DFLOW_OK;
    } catch (const error &failure) {
        if (failure.is_unread()) {
            return DFLOW_ERROR_UNREAD;
        }
        return dflow_fail(raw, failure.what());
    } catch (const std::exception &failure) {
        return dflow_fail(raw, failure.what());
    } catch (...) {
        return dflow_fail(raw, "the function has thrown something that is not a std::exception");
    }
}

extern "C" inline int dflow_hpp_call(dflow_context *raw, void *data) {
    return call(raw, data);
}

}  // namespace detail

/* Serves a function: return its result from main. */
inline int serve(int argc, char **argv, std::function<void(context &)> work) {
    return dflow_serve(argc, argv, detail::dflow_hpp_call, &work);
}

}  // namespace dflow

#endif
