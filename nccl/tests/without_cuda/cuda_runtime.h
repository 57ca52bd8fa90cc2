/*
 * cuda_runtime.h: stands in the place of CUDA's header of this name, so that NCCL's own nccl.h can be compiled where CUDA is not installed. Knows
 * nothing else of CUDA. Invariant: what nccl.h takes from CUDA in C is here, and nothing more.
 */
#ifndef WITHOUT_CUDA_RUNTIME_H_
#define WITHOUT_CUDA_RUNTIME_H_

#include <stddef.h>

#define CUDART_VERSION 12020

typedef struct CUstream_st* cudaStream_t;

#endif /* WITHOUT_CUDA_RUNTIME_H_ */
