// Log likelihood of sequences seen along a latent trajectory, and its gradients, in one pass.
//
//   dz/dt = F(z), RK4 with uniform steps, cubic Hermite read-out at the data's times,
//   log p(x | z0) = sum_t log p(x_t | G(z(t))),
//
// F and G plain multi-layer perceptrons. Sequences are the lanes of vectors: a block of LANES of them
// goes through everything while its state is in cache, and blocks are shared out over threads.
// Arrays inside are (rows, LANES); nothing is as long as the data but the data.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

#include "network.h"

enum Likelihood { GAUSSIAN, BERNOULLI, POISSON };

extern "C" struct Task {
    Network field, emission;
    int64_t sequences;  // lanes asked for: those of the data, one or more times over
    int64_t data;  // sequences in the data
    int64_t times, observed, steps;
    double h;
    int32_t own_times;  // 0: one grid of times for all
    int32_t likelihood;
    const int32_t *node;  // (times) or (data, times): the step a time lies in
    const void *weights;  // (4, times) or (data, 4, times): of z_k, z_k+1, f_k, f_k+1
    const void *values;  // (data, times, observed)
    const uint8_t *mask;
    const void *scale;  // (observed)
    const void *z0;  // (sequences, latent)
    const void *seed;  // (sequences): what each log likelihood counts in the weights' gradients
    // results; null where they are not wanted
    void *value;  // (sequences)
    void *grad_z0;  // (sequences, latent)
    void *grad_weights;  // field's weights and biases layer by layer, emission's, scale: added to
    int64_t parameters;
    int32_t threads;
};

namespace {

template <class T> struct Buffer {
    std::vector<char> bytes;
    T *data = nullptr;
    void size(int64_t n) {
        bytes.resize(n * sizeof(T) + BYTES);
        data = (T *)(((uintptr_t)bytes.data() + BYTES - 1) / BYTES * BYTES);
    }
};

constexpr int64_t KEPT = 4 << 20;  // bytes of a solver's hidden values kept between its two passes

constexpr int64_t SHORT = 16;  // times whose log likelihoods are added up in T itself

template <class T> struct Block {
    static constexpr int B = LANES<T>;
    const Task &task;
    const Layers<T> &field, &emission;
    int64_t latent, steps, segment, observed;
    bool gradients, parameters;
    Buffer<T> nodes, slopes, gnodes, gslopes, h, d, stages, work, path, gpath, out, gout, eh, ed, k, v,
        acc, part;
    Buffer<double> value, gscale;  // sums over all times, where float would lose digits
    std::vector<int64_t> row;  // of the data, for each lane
    int64_t first = 0, lanes = 0;

    Block(const Task &t, const Layers<T> &f, const Layers<T> &e)
        : task(t), field(f), emission(e), latent(f.sizes[0]), steps(t.steps), observed(t.observed),
          gradients(t.grad_z0 || t.grad_weights), parameters(t.grad_weights != nullptr), row(B) {
        int64_t of_step = 4 * (2 * field.hidden + latent) * B * (int64_t)sizeof(T);
        segment = gradients ? std::max<int64_t>(1, std::min(steps, KEPT / of_step)) : 1;
        for (auto *b : {&nodes, &slopes}) b->size((steps + 1) * latent * B);
        for (auto *b : {&gnodes, &gslopes}) b->size(gradients ? (steps + 1) * latent * B : 0);
        int64_t evaluations = 4 * segment + 1;
        h.size(evaluations * field.hidden * B);
        d.size(evaluations * field.hidden * B);
        stages.size(evaluations * latent * B);
        work.size(2 * std::max(field.widest, emission.widest) * B);
        for (auto *b : {&path, &gpath}) b->size(latent * B);
        for (auto *b : {&out, &gout}) b->size(observed * B);
        eh.size(emission.hidden * B + B);
        ed.size(emission.hidden * B + B);
        k.size(5 * latent * B);
        v.size(2 * latent * B);
        value.size(B);
        part.size(B);
        if (!parameters) return;
        int64_t networks = task.parameters - observed;
        acc.size(networks * B);
        std::fill(acc.data, acc.data + networks * B, T(0));
        gscale.size(observed * B);
        std::fill(gscale.data, gscale.data + observed * B, 0.0);
    }

    int64_t L() const { return latent * B; }

    // The slope at stage input y, its hidden values kept in place `at`
    void slope(int64_t at, const T *y, T *out) {
        std::copy(y, y + L(), stages.data + at * L());
        field.forward(y, out, h.data + at * field.hidden * B, d.data + at * field.hidden * B);
    }

    void pull(int64_t at, const T *g, T *gx) {
        int64_t n = field.hidden * B;
        field.backward(stages.data + at * L(), h.data + at * n, d.data + at * n, g, gx, work.data,
                       parameters ? acc.data : nullptr);
    }

    // Steps begin .. end, the first of them at place 0; f_begin is evaluated here too
    void advance(int64_t begin, int64_t end) {
        const T h = T(task.h);
        const int64_t n = L();
        T *y = k.data, *k2 = k.data + n, *k3 = k.data + 2 * n, *k4 = k.data + 3 * n;
        for (int64_t s = begin; s < end; ++s) {
            int64_t at = 4 * (gradients ? s - begin : 0);
            T *z = nodes.data + s * n, *k1 = slopes.data + s * n, *after = z + n;
            if (s == begin) slope(at, z, k1);
            for (int64_t i = 0; i < n; ++i) y[i] = z[i] + h / 2 * k1[i];
            slope(at + 1, y, k2);
            for (int64_t i = 0; i < n; ++i) y[i] = z[i] + h / 2 * k2[i];
            slope(at + 2, y, k3);
            for (int64_t i = 0; i < n; ++i) y[i] = z[i] + h * k3[i];
            slope(at + 3, y, k4);
            for (int64_t i = 0; i < n; ++i)
                after[i] = z[i] + h / 6 * (k1[i] + 2 * (k2[i] + k3[i]) + k4[i]);
            slope(gradients ? at + 4 : 0, after, k1 + n);
        }
    }

    // Gradients at nodes and slopes of steps end .. begin, back to the node at begin
    void retreat(int64_t begin, int64_t end) {
        const T h = T(task.h);
        const int64_t n = L();
        T *g = k.data, *v4 = k.data + n, *v3 = k.data + 2 * n, *v2 = k.data + 3 * n, *gk = v.data;
        for (int64_t s = end - 1; s >= begin; --s) {
            int64_t at = 4 * (s - begin);
            T *gz = gnodes.data + s * n, *gf = gslopes.data + s * n, *above = gz + n;
            pull(at + 4, gf + n, g);
            for (int64_t i = 0; i < n; ++i) g[i] += above[i];
            for (int64_t i = 0; i < n; ++i) gk[i] = h / 6 * g[i];
            pull(at + 3, gk, v4);
            for (int64_t i = 0; i < n; ++i) gk[i] = h / 3 * g[i] + h * v4[i];
            pull(at + 2, gk, v3);
            for (int64_t i = 0; i < n; ++i) gk[i] = h / 3 * g[i] + h / 2 * v3[i];
            pull(at + 1, gk, v2);
            for (int64_t i = 0; i < n; ++i) gf[i] += h / 6 * g[i] + h / 2 * v2[i];
            for (int64_t i = 0; i < n; ++i) gz[i] += g[i] + v4[i] + v3[i] + v2[i];
        }
    }

    // What the read-out puts at time t, lane by lane where times are their own
    int64_t place(int64_t t, int64_t lane, const T **w) const {
        int64_t r = task.own_times ? row[lane] : 0;
        *w = (const T *)task.weights + r * 4 * task.times + t;
        return task.node[r * task.times + t];
    }

    void read(int64_t t) {
        const int64_t n = L(), m = task.times;
        const T *w;
        if (!task.own_times) {
            int64_t i = place(t, 0, &w) * n;
            const T *z = nodes.data + i, *f = slopes.data + i;
            for (int64_t j = 0; j < n; ++j)
                path.data[j] = w[0] * z[j] + w[m] * z[n + j] + w[2 * m] * f[j] + w[3 * m] * f[n + j];
            return;
        }
        for (int b = 0; b < B; ++b) {
            int64_t i = place(t, b, &w) * n;
            for (int64_t j = i + b, o = b; o < n; j += B, o += B)
                path.data[o] = w[0] * nodes.data[j] + w[m] * nodes.data[j + n] +
                               w[2 * m] * slopes.data[j] + w[3 * m] * slopes.data[j + n];
        }
    }

    void write_back(int64_t t) {
        const int64_t n = L(), m = task.times;
        const T *w, *g = gpath.data;
        if (!task.own_times) {
            int64_t i = place(t, 0, &w) * n;
            T *z = gnodes.data + i, *f = gslopes.data + i;
            for (int64_t j = 0; j < n; ++j) {
                z[j] += w[0] * g[j];
                z[n + j] += w[m] * g[j];
                f[j] += w[2 * m] * g[j];
                f[n + j] += w[3 * m] * g[j];
            }
            return;
        }
        for (int b = 0; b < B; ++b) {
            int64_t i = place(t, b, &w) * n;
            for (int64_t j = i + b, o = b; o < n; j += B, o += B) {
                gnodes.data[j] += w[0] * g[o];
                gnodes.data[j + n] += w[m] * g[o];
                gslopes.data[j] += w[2 * m] * g[o];
                gslopes.data[j + n] += w[3 * m] * g[o];
            }
        }
    }

    // Log likelihood of what was seen at time t, and its derivative by the emission's output
    void compare(int64_t t) {
        const T *scale = (const T *)task.scale, *values = (const T *)task.values;
        for (int64_t o = 0; o < observed; ++o) {
            T x[B], seen[B];
            for (int b = 0; b < B; ++b) {
                int64_t at = (row[b] * task.times + t) * observed + o;
                x[b] = values[at];
                seen[b] = b < lanes && task.mask[at] ? T(1) : T(0);
            }
            const T *m = out.data + o * B;
            T *g = gout.data + o * B, *total = part.data;
            if (task.likelihood == GAUSSIAN) {
                T inverse = 1 / scale[o], constant = -std::log(scale[o]) - T(0.91893853320467274178);
                for (int b = 0; b < B; ++b) {
                    T r = (x[b] - m[b]) * inverse;
                    total[b] += seen[b] * (constant - T(0.5) * r * r);
                    g[b] = seen[b] * r * inverse;
                }
            } else if (task.likelihood == BERNOULLI) {
                for (int b = 0; b < B; ++b) {
                    total[b] += seen[b] * (x[b] * m[b] - softplus(m[b]));
                    g[b] = seen[b] * (x[b] - sigmoid(m[b]));
                }
            } else {  // Poisson, but for log x!
                for (int b = 0; b < B; ++b) {
                    T low = m[b] < -20 ? T(-20) : m[b], c = low > 20 ? T(20) : low;
                    T rate = exponential(c);
                    total[b] += seen[b] * (x[b] * c - rate);
                    g[b] = c == m[b] ? seen[b] * (x[b] - rate) : T(0);
                }
            }
            if (!parameters) continue;
            if (task.likelihood == GAUSSIAN)  // g is r / sigma
                for (int b = 0; b < B; ++b)
                    gscale.data[o * B + b] += lane_seed(b) * (g[b] * (x[b] - m[b]) - seen[b]) / scale[o];
            for (int b = 0; b < B; ++b) g[b] *= lane_seed(b);
        }
    }

    void add_part() {
        for (int b = 0; b < B; ++b) {
            value.data[b] += part.data[b];
            part.data[b] = T(0);
        }
    }

    T lane_seed(int b) const { return b < lanes ? ((const T *)task.seed)[first + b] : T(0); }

    void run(int64_t begin) {
        first = begin;
        lanes = std::min<int64_t>(B, task.sequences - begin);
        const int64_t n = L();
        const T *z0 = (const T *)task.z0;
        for (int b = 0; b < B; ++b) {
            int64_t i = first + std::min<int64_t>(b, lanes - 1);
            row[b] = i % task.data;
            for (int64_t j = 0; j < latent; ++j) nodes.data[j * B + b] = z0[i * latent + j];
        }
        for (int64_t s = 0; s < steps; s += segment) advance(s, std::min(steps, s + segment));
        std::fill(value.data, value.data + B, 0.0);
        std::fill(part.data, part.data + B, T(0));
        if (gradients) {
            std::fill(gnodes.data, gnodes.data + (steps + 1) * n, T(0));
            std::fill(gslopes.data, gslopes.data + (steps + 1) * n, T(0));
        }
        for (int64_t t = 0; t < task.times; ++t) {
            read(t);
            emission.forward(path.data, out.data, eh.data, ed.data);
            compare(t);
            if (t % SHORT == SHORT - 1 || t == task.times - 1) add_part();
            if (!gradients) continue;
            emission.backward(path.data, eh.data, ed.data, gout.data, gpath.data, work.data,
                              parameters ? acc.data : nullptr);
            write_back(t);
        }
        if (gradients) go_back();
        if (task.value)
            for (int64_t b = 0; b < lanes; ++b) ((T *)task.value)[first + b] = value.data[b];
    }

    void go_back() {
        int64_t begin = (steps - 1) / segment * segment;
        for (int64_t end = steps; end > 0; end = begin, begin -= segment) {
            if (end < steps) advance(begin, end);  // its hidden values were written over
            retreat(begin, end);
        }
        T *g = k.data;
        pull(0, gslopes.data, g);
        if (!task.grad_z0) return;
        for (int64_t b = 0; b < lanes; ++b)
            for (int64_t j = 0; j < latent; ++j)
                ((T *)task.grad_z0)[(first + b) * latent + j] = g[j * B + b] + gnodes.data[j * B + b];
    }
};

template <class T> void run(const Task &task) {
    Layers<T> field(task.field, 0), emission(task.emission, field.parameters);
    const int64_t blocks = (task.sequences + LANES<T> - 1) / LANES<T>;
    const int threads = (int)std::max<int64_t>(1, std::min<int64_t>(task.threads, blocks));
    std::vector<Buffer<T>> sums(threads);
    std::vector<Buffer<double>> of_scale(threads);
    std::atomic<bool> failed{false};
    auto work = [&](int thread) {
        try {
            Block<T> block(task, field, emission);
            for (int64_t i = thread; i < blocks; i += threads) block.run(i * LANES<T>);
            sums[thread] = std::move(block.acc);
            of_scale[thread] = std::move(block.gscale);
        } catch (...) {  // what leaves a thread ends the program
            failed = true;
        }
    };
    std::vector<std::thread> others;
    others.reserve(threads);
    int share = 1;
    try {
        for (; share < threads; ++share) others.emplace_back(work, share);
    } catch (...) {  // no more threads are to be had: the rest of the shares are done here
    }
    work(0);
    for (; share < threads; ++share) work(share);
    for (auto &other : others) other.join();
    if (failed) throw std::bad_alloc();
    if (!task.grad_weights) return;
    const int64_t networks = task.parameters - task.observed;
    auto add = [](auto &each, int64_t rows, T *to) {
        for (auto &sum : each)
            for (int64_t i = 0; i < rows; ++i)
                for (int b = 0; b < LANES<T>; ++b) to[i] += T(sum.data[i * LANES<T> + b]);
    };
    add(sums, networks, (T *)task.grad_weights);
    add(of_scale, task.observed, (T *)task.grad_weights + networks);
}

}  // namespace

// 0 where it was done, 1 where memory was not enough
extern "C" int32_t pyro_lebm_path(const Task *task, int32_t of_double) {
    try {
        of_double ? run<double>(*task) : run<float>(*task);
        return 0;
    } catch (...) {
        return 1;
    }
}
