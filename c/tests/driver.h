/*
 * driver.h: the CUDA driver's calls that the test programs make, declared here so that no CUDA is needed to compile them; and what they do with
 * a device. Knows nothing of communicators. Invariant: the device's memory is only ever touched by the driver's calls.
 */
#ifndef DRIVER_H_
#define DRIVER_H_

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef unsigned long long CUdeviceptr;
typedef int CUdevice;
typedef int CUresult;
typedef struct CUctx_st* CUcontext;
typedef struct CUstream_st* CUstream;

#ifdef __cplusplus
extern "C" {
#endif
CUresult cuInit(unsigned int flags);
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device);
CUresult cuCtxSetCurrent(CUcontext context);
CUresult cuCtxGetCurrent(CUcontext* context);
CUresult cuMemAlloc_v2(CUdeviceptr* at, size_t bytes);
CUresult cuMemFree_v2(CUdeviceptr at);
CUresult cuMemHostAlloc(void** at, size_t bytes, unsigned int flags);
CUresult cuMemFreeHost(void* at);
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream);
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes);
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes);
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream);
CUresult cuMemsetD32Async(CUdeviceptr at, unsigned int value, size_t count, CUstream stream);
CUresult cuStreamCreate(CUstream* stream, unsigned int flags);
CUresult cuStreamDestroy_v2(CUstream stream);
CUresult cuStreamSynchronize(CUstream stream);
CUresult cuStreamQuery(CUstream stream);
CUresult cuStreamBeginCapture_v2(CUstream stream, int mode);
CUresult cuStreamEndCapture(CUstream stream, void** graph);
#ifdef __cplusplus
}
#endif

/* A call of the driver's that must succeed. */
#define CUDA(call)                                     \
  do {                                                 \
    CUresult done_ = (call);                           \
    CHECK(done_ == 0, "the driver says %d", (int)done_); \
  } while (0)

enum { NOT_READY = 600, NON_BLOCKING = 1 };

/* Makes the device's primary context this thread's, as cudaSetDevice does. */
static inline void use_device(CUdevice device) {
  CUcontext context;
  CUDA(cuInit(0));
  CUDA(cuDevicePrimaryCtxRetain(&context, device));
  CUDA(cuCtxSetCurrent(context));
}

static inline CUstream new_stream(void) {
  CUstream stream;
  CUDA(cuStreamCreate(&stream, NON_BLOCKING));
  return stream;
}

static inline void* on_device(size_t bytes) {
  CUdeviceptr at;
  CUDA(cuMemAlloc_v2(&at, bytes));
  return (void*)(uintptr_t)at;
}

static inline CUdeviceptr place(const void* at) { return (CUdeviceptr)(uintptr_t)at; }

static inline void free_on_device(void* at) { CUDA(cuMemFree_v2(place(at))); }

/* How elements of a type are stored: bits of the exponent and of the mantissa, none of both for integers. The order is hfrDataType_t's. */
typedef struct {
  int bytes;
  int exponent;
  int mantissa;
} Layout;

static const Layout LAYOUTS[12] = {{1, 0, 0}, {1, 0, 0}, {4, 0, 0},   {4, 0, 0},  {8, 0, 0}, {8, 0, 0},
                                   {2, 5, 10}, {4, 8, 23}, {8, 11, 52}, {2, 8, 7}, {1, 4, 3}, {1, 5, 2}};

/* The element for a small number, which the type holds exactly. */
static inline uint64_t encoded(int type, double number) {
  const Layout* of = &LAYOUTS[type];
  int exponent;
  double fraction;
  if (of->exponent == 0 || number == 0) return (uint64_t)(int64_t)number;
  fraction = frexp(number, &exponent) * 2 - 1;
  return ((uint64_t)(exponent - 1 + (1 << (of->exponent - 1)) - 1) << of->mantissa) |
         (uint64_t)ldexp(fraction, of->mantissa);
}

static inline void put_number(int type, void* base, size_t i, double number) {
  uint64_t element = encoded(type, number);
  memcpy((char*)base + i * (size_t)LAYOUTS[type].bytes, &element, (size_t)LAYOUTS[type].bytes);
}

/* Whether element i is the one for number. */
static inline int is_number(int type, const void* base, size_t i, double number) {
  uint64_t element = encoded(type, number);
  return memcmp((const char*)base + i * (size_t)LAYOUTS[type].bytes, &element, (size_t)LAYOUTS[type].bytes) == 0;
}

#endif /* DRIVER_H_ */
