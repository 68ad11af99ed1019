// Counts numbers by their whole degrees, and writes a line for each degree: "-4 17".

#include <cmath>
#include <cstring>
#include <dflow.hpp>
#include <map>
#include <string>

// A stream is cut anywhere, also within a number: the bytes of one that is not complete wait here.
class numbers {
public:
    template <typename Use>
    void take(std::string_view bytes, Use use) {
        while (!bytes.empty()) {
            std::size_t part = std::min(sizeof(double) - have_, bytes.size());
            std::memcpy(begun_ + have_, bytes.data(), part);
            bytes.remove_prefix(part);
            have_ += part;
            if (have_ == sizeof(double)) {
                double value;
                std::memcpy(&value, begun_, sizeof value);
                use(value);
                have_ = 0;
            }
        }
    }

    bool is_cut() const { return have_ > 0; }

private:
    char begun_[sizeof(double)] = {};
    std::size_t have_ = 0;
};

static void histogram(dflow::context &context) {
    auto values = context.input("values");
    auto bins = context.output("bins");

    std::map<long, unsigned long> counts;
    numbers all;
    while (auto chunk = values.chunk()) {
        all.take(*chunk, [&](double value) { counts[std::lround(std::floor(value))] += 1; });
    }
    if (all.is_cut()) {
        throw std::runtime_error("the input ends within a number");
    }
    for (const auto &[degree, count] : counts) {
        bins.write(std::to_string(degree) + " " + std::to_string(count) + "\n");
    }
}

int main(int argc, char **argv) {
    return dflow::serve(argc, argv, histogram);
}
