// Multi-layer perceptrons over lanes: arrays are (rows, LANES), a lane is a sequence.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "functions.h"

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8;
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 6;
#else
constexpr int BYTES = 16, ROWS = 6;
#endif

extern "C" struct Network {
    int32_t layers, activation;
    const int32_t *sizes;  // layers + 1 of them
    const void *const *weights, *const *biases;  // (out, in) and (out), as torch has them
};

namespace {

template <class T> struct Vec {
    typedef T type __attribute__((vector_size(BYTES)));
    static constexpr int WIDTH = BYTES / sizeof(T), LANES = 2 * WIDTH;
};

template <class T> constexpr int LANES = Vec<T>::LANES;

// out (R, LANES) = W (R rows of length k) x (k, LANES) + bias, or added to what is there
template <class T, int R>
inline void rows_of(const T *w, int64_t stride, int64_t k, const T *x, const T *bias, T *out) {
    typedef typename Vec<T>::type V;
    constexpr int W = Vec<T>::WIDTH;
    V a[R], b[R];
    for (int r = 0; r < R; ++r) a[r] = b[r] = V{} + (bias ? bias[r] : T(0));
    for (int64_t j = 0; j < k; ++j) {
        V x0 = *(const V *)(x + j * 2 * W), x1 = *(const V *)(x + j * 2 * W + W);
        for (int r = 0; r < R; ++r) {
            T s = w[r * stride + j];
            a[r] += s * x0;
            b[r] += s * x1;
        }
    }
    for (int r = 0; r < R; ++r) {
        *(V *)(out + r * 2 * W) = a[r];
        *(V *)(out + r * 2 * W + W) = b[r];
    }
}

template <class T>
void product(const T *w, int64_t rows, int64_t k, const T *x, const T *bias, T *out) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        rows_of<T, ROWS>(w + r * k, k, k, x, bias ? bias + r : nullptr, out + r * LANES<T>);
    const T *b = bias ? bias + r : nullptr;
    T *o = out + r * LANES<T>;
    w += r * k;
    switch (rows - r) {
    case 7: rows_of<T, 7>(w, k, k, x, b, o); break;
    case 6: rows_of<T, 6>(w, k, k, x, b, o); break;
    case 5: rows_of<T, 5>(w, k, k, x, b, o); break;
    case 4: rows_of<T, 4>(w, k, k, x, b, o); break;
    case 3: rows_of<T, 3>(w, k, k, x, b, o); break;
    case 2: rows_of<T, 2>(w, k, k, x, b, o); break;
    case 1: rows_of<T, 1>(w, k, k, x, b, o); break;
    }
}

// A network with its transposed weights, and where its layers' gradients are kept.
template <class T> struct Layers {
    int count, activation;
    std::vector<int64_t> sizes;
    std::vector<const T *> weights, biases;
    std::vector<std::vector<T>> transposed;
    std::vector<int64_t> offset;  // of each layer's weights among all gradients
    int64_t hidden = 0, parameters = 0, widest = 0;  // rows of all hidden layers together

    Layers(const Network &net, int64_t begin) : count(net.layers), activation(net.activation) {
        for (int i = 0; i <= count; ++i) {
            sizes.push_back(net.sizes[i]);
            widest = std::max<int64_t>(widest, net.sizes[i]);
        }
        for (int i = 0; i < count; ++i) {
            weights.push_back((const T *)net.weights[i]);
            biases.push_back((const T *)net.biases[i]);
            int64_t m = sizes[i + 1], n = sizes[i];
            transposed.emplace_back(m * n);
            for (int64_t a = 0; a < m; ++a)
                for (int64_t b = 0; b < n; ++b) transposed[i][b * m + a] = weights[i][a * n + b];
            offset.push_back(begin + parameters);
            parameters += m * n + m;
            if (i + 1 < count) hidden += m;
        }
    }

    // x (in, LANES) -> out (out, LANES); hidden values and derivatives into h and d, (hidden, LANES)
    void forward(const T *x, T *out, T *h, T *d) const {
        for (int i = 0; i < count; ++i) {
            T *y = i + 1 < count ? h : out;
            product(weights[i], sizes[i + 1], sizes[i], x, biases[i], y);
            if (i + 1 == count) break;
            activate(activation, sizes[i + 1] * LANES<T>, y, d);
            x = y;
            h += sizes[i + 1] * LANES<T>;
            d += sizes[i + 1] * LANES<T>;
        }
    }

    // g (out, LANES) -> gx (in, LANES); with acc, adds the weights' gradients of each lane
    void backward(const T *x, const T *h, const T *d, const T *g, T *gx, T *work, T *acc) const {
        constexpr int B = LANES<T>;
        T *now = work, *next = work + widest * B;
        const T *up = g;
        const T *top = h + hidden * B, *slope = d + hidden * B;
        for (int i = count - 1; i >= 0; --i) {
            const T *in = i ? top - sizes[i] * B : x;
            if (acc) add(acc + offset[i] * B, up, sizes[i + 1], in, sizes[i]);
            T *down = i ? now : gx;
            product(transposed[i].data(), sizes[i], sizes[i + 1], up, (const T *)nullptr, down);
            if (!i) break;
            top = in;
            slope -= sizes[i] * B;
            for (int64_t j = 0; j < sizes[i] * B; ++j) down[j] *= slope[j];
            up = down;
            std::swap(now, next);
        }
    }

    static void add(T *acc, const T *up, int64_t m, const T *in, int64_t n) {
        typedef typename Vec<T>::type V;
        constexpr int W = Vec<T>::WIDTH, B = LANES<T>;
        for (int64_t a = 0; a < m; ++a) {
            V u0 = *(const V *)(up + a * B), u1 = *(const V *)(up + a * B + W);
            V *row = (V *)(acc + a * n * B);
            for (int64_t b = 0; b < n; ++b) {
                row[2 * b] += u0 * *(const V *)(in + b * B);
                row[2 * b + 1] += u1 * *(const V *)(in + b * B + W);
            }
        }
        V *bias = (V *)(acc + m * n * B);
        for (int64_t a = 0; a < m; ++a) {
            bias[2 * a] += *(const V *)(up + a * B);
            bias[2 * a + 1] += *(const V *)(up + a * B + W);
        }
    }
};

}  // namespace
