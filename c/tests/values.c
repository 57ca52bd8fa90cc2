/*
 * values.c: NCCL's numbers and the layouts that a binary program depends on, told to a C99 and a C++11 compiler: it compiles, or they are wrong.
 * Knows nothing of the library. Invariant: what stands here never changes while the soname stays.
 */
#include <hfreduce.h>

#define SAME(name, what, number) typedef char name##_is_##number[(what) == (number) ? 1 : -1]
#define RESULT(name, number) SAME(result_##name, hfr##name, number)
#define TYPE(name, number) SAME(type_##name, hfr##name, number)
#define OPERATION(name, number) SAME(operation_##name, hfr##name, number)

RESULT(Success, 0);
RESULT(UnhandledCudaError, 1);
RESULT(SystemError, 2);
RESULT(InternalError, 3);
RESULT(InvalidArgument, 4);
RESULT(InvalidUsage, 5);
RESULT(RemoteError, 6);
RESULT(InProgress, 7);

TYPE(Int8, 0);
TYPE(Char, 0);
TYPE(Uint8, 1);
TYPE(Int32, 2);
TYPE(Int, 2);
TYPE(Uint32, 3);
TYPE(Int64, 4);
TYPE(Uint64, 5);
TYPE(Float16, 6);
TYPE(Half, 6);
TYPE(Float32, 7);
TYPE(Float, 7);
TYPE(Float64, 8);
TYPE(Double, 8);
TYPE(Bfloat16, 9);
TYPE(Float8e4m3, 10);
TYPE(Float8e5m2, 11);
TYPE(NumTypes, 12);

OPERATION(Sum, 0);
OPERATION(Prod, 1);
OPERATION(Max, 2);
OPERATION(Min, 3);
OPERATION(Avg, 4);
OPERATION(NumOps, 5);
OPERATION(Band, 0x40000000);
OPERATION(Bor, 0x40000001);
OPERATION(Bxor, 0x40000002);
OPERATION(MaxRedOp, 0x7fffffff);

SAME(residence, hfrScalarHostImmediate, 1);
SAME(bytes_of_identity, sizeof(hfrUniqueId), 128);
SAME(bytes_of_result, sizeof(hfrResult_t), 4);
SAME(bytes_of_type, sizeof(hfrDataType_t), 4);
SAME(bytes_of_operation, sizeof(hfrRedOp_t), 4);
SAME(bytes_of_stream, sizeof(hfrStream_t), 8);
SAME(bytes_of_config, sizeof(hfrConfig_t), 48);
SAME(config_magic, offsetof(hfrConfig_t, magic), 8);
SAME(config_version, offsetof(hfrConfig_t, version), 12);
SAME(config_blocking, offsetof(hfrConfig_t, blocking), 16);
SAME(config_timeout, offsetof(hfrConfig_t, timeoutMs), 20);
SAME(config_connect_timeout, offsetof(hfrConfig_t, connectTimeoutMs), 24);
SAME(config_node, offsetof(hfrConfig_t, node), 32);
SAME(config_gpu, offsetof(hfrConfig_t, gpu), 40);

int main(void) {
  hfrConfig_t config = HFR_CONFIG_INITIALIZER;
  return config.size == sizeof config && config.magic == HFR_CONFIG_MAGIC && config.version == (unsigned)HFR_VERSION_CODE &&
                 config.blocking == HFR_CONFIG_UNDEF_INT && config.timeoutMs == HFR_CONFIG_UNDEF_INT &&
                 config.connectTimeoutMs == HFR_CONFIG_UNDEF_INT && config.node == HFR_CONFIG_UNDEF_PTR &&
                 config.gpu == HFR_CONFIG_UNDEF_INT
             ? 0
             : 1;
}
