// Exceptions that leave the work in all ways: the parameter 'what' says which.

#include <dflow.hpp>
#include <stdexcept>

static void work(dflow::context &context) {
    auto what = context.param("what").value_or("nothing");
    auto out = context.output("out");
    if (what == "standard") {
        throw std::runtime_error("what a pity");
    }
    if (what == "number") {
        throw 42;
    }
    if (what == "dflow") {
        context.input("of another function");
    }
    if (what == "unread") {
        for (;;) {
            out.write("on and on\n");
        }
    }
    auto in = context.input("in");
    while (auto view = in.view(10)) {
        out.record(view->bytes());
    }
}

// Without the wrapper, an exception reaches C. It must end the program, and not go on in any other way.
static int raw(dflow_context *, void *) {
    throw std::runtime_error("through the boundary");
}

int main(int argc, char **argv) {
    for (int at = 1; at < argc; at++) {
        if (std::string(argv[at]) == "what=raw") {
            return dflow_serve(argc, argv, raw, nullptr);
        }
    }
    return dflow::serve(argc, argv, work);
}
