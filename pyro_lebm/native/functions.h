// Elementary functions, to a few units in the last place, in loops that compilers turn into vectors.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

enum Activation { TANH, SOFTPLUS, ELU, SILU, RELU };

namespace {

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }

template <class T> struct Real;
template <> struct Real<float> {
    typedef int32_t Int;
    static constexpr int MANTISSA = 23, BIAS = 127;
    static constexpr float LOW = -87.0f, HIGH = 88.0f, LN2_HIGH = 0.693359375f;
    static constexpr float LN2_LOW = -2.12194440e-4f;
    static constexpr int TERMS = 7;
    static constexpr float inverse_factorial(int n) { return float(1.0 / factorial(n)); }
};
template <> struct Real<double> {
    typedef int64_t Int;
    static constexpr int MANTISSA = 52, BIAS = 1023;
    static constexpr double LOW = -708.0, HIGH = 709.0, LN2_HIGH = 6.93145751953125e-1;
    static constexpr double LN2_LOW = 1.42860682030941723212e-6;
    static constexpr int TERMS = 13;
    static constexpr double inverse_factorial(int n) { return 1.0 / factorial(n); }
};

// exp(x) - 1 = (2^k - 1) + 2^k (e^r - 1), which does not cancel near 0; returns 2^k, e^r - 1 in q
template <class T> inline T powers(T x, T &q) {
    typedef Real<T> R;
    T low = x < R::LOW ? R::LOW : x;  // NaN stays
    T c = low > R::HIGH ? R::HIGH : low;
    T k = std::floor(c * T(1.44269504088896341) + T(0.5));
    T r = (c - k * R::LN2_HIGH) - k * R::LN2_LOW;
    T p = R::inverse_factorial(R::TERMS);
    for (int i = R::TERMS - 1; i > 0; --i) p = R::inverse_factorial(i) + p * r;
    q = p * r;
    typename R::Int bits = (typename R::Int(k == k ? k : T(0)) + R::BIAS) << R::MANTISSA;
    T two;
    std::memcpy(&two, &bits, sizeof(T));
    return two;
}

template <class T> inline T exponential(T x) {
    T q, two = powers(x, q);
    return two + two * q;
}

template <class T> inline T hyperbolic(T x) {
    T q, two = powers(2 * x, q);
    T t = (two - 1) + two * q;
    return t / (t + 2);
}

template <class T> inline T log1p_of_exp_minus(T a) {  // log(1 + exp(-a)), a >= 0
    // by atanh: log(1 + u) = 2 atanh(u / (2 + u)), u in (0, 1]
    T u = exponential(-a), s = u / (2 + u), s2 = s * s, p = 0;
    for (int i = sizeof(T) == 4 ? 6 : 15; i >= 0; --i) p = T(1) / T(2 * i + 1) + s2 * p;
    return 2 * s * p;
}

// A rational fit, within 2.1e-8 of tanh by the largest relative error up to 9.02, where it is 1 in
// single precision: half the work of an exponential.
template <> inline float hyperbolic(float x) {
    float low = x < -9.02f ? -9.02f : x;  // NaN stays
    float c = low > 9.02f ? 9.02f : low, u = c * c;
    float p = 1.3319052947707186e-08f, q = 7.762012303224049e-07f;
    p = 2.058346987270409e-05f + p * u, q = 3.283091823942647e-04f + q * u;
    p = 3.4940340002858734e-03f + p * u, q = 2.5871071238297277e-02f + q * u;
    p = 1.3379717525298782e-01f + p * u, q = 4.6713032768652085e-01f + q * u;
    p = 9.999999790242429e-01f + p * u, q = 1 + q * u;
    return c * p / q;
}

template <class T> inline T sigmoid(T x) { return 1 / (1 + exponential(-x)); }
template <class T> inline T softplus(T x) {
    T a = x < 0 ? -x : x;
    return (x > 0 ? x : x * 0) + log1p_of_exp_minus(a);
}
// a -> activation in place, its derivative into d
template <class T> void activate(int kind, int64_t n, T *__restrict a, T *__restrict d) {
    switch (kind) {
    case TANH:
        for (int64_t i = 0; i < n; ++i) {
            T y = hyperbolic(a[i]);
            a[i] = y;
            d[i] = 1 - y * y;
        }
        break;
    case SOFTPLUS:
        for (int64_t i = 0; i < n; ++i) {
            T x = a[i];
            a[i] = softplus(x);
            d[i] = sigmoid(x);
        }
        break;
    case ELU:
        for (int64_t i = 0; i < n; ++i) {
            T x = a[i], e = exponential(x < 0 ? x : x * 0);
            a[i] = x > 0 ? x : e - 1;
            d[i] = x > 0 ? T(1) : e;
        }
        break;
    case SILU:
        for (int64_t i = 0; i < n; ++i) {
            T x = a[i], s = sigmoid(x);
            a[i] = x * s;
            d[i] = s * (1 + x * (1 - s));
        }
        break;
    default:
        for (int64_t i = 0; i < n; ++i) {
            T x = a[i];
            a[i] = x > 0 ? x : x * 0;
            d[i] = x > 0 ? T(1) : T(0);
        }
    }
}

}  // namespace
