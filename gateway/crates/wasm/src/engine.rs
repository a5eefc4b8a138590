//! The two engines. All of what a guest could use up is set here explicitly, however good the library's default is.

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    Strategy,
};

use crate::limits;
use crate::manifest::Class;

/// Makes the engine of a class.
///
/// # Errors
/// If the machine can't reserve the pool.
pub(crate) fn engine(class: Class, pool_instances: u32) -> wasmtime::Result<Engine> {
    let mut c = Config::new();
    c.wasm_component_model(true)
        .epoch_interruption(true)
        .consume_fuel(false)
        .concurrency_support(false)
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        // Proposals that no supported toolchain needs are attack surface.
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_wide_arithmetic(false)
        .wasm_custom_page_sizes(false)
        // Composed components have a memory for each part.
        .wasm_multi_memory(true)
        .async_stack_zeroing(true)
        .memory_reservation(64 << 20)
        .memory_guard_size(64 << 10)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20))
        .generate_address_map(true);
    match class {
        Class::Small => {
            let mut p = PoolingAllocationConfig::new();
            let n = pool_instances.max(1);
            p.total_component_instances(n)
                .total_core_instances(n.saturating_mul(4))
                .total_memories(n + n / 4)
                .total_tables(n.saturating_mul(3))
                .total_stacks(n + 64)
                .max_core_instances_per_component(
                    u32::try_from(limits::MAX_INSTANCES).unwrap_or(16),
                )
                .max_memories_per_component(u32::try_from(limits::MAX_MEMORIES).unwrap_or(4))
                .max_tables_per_component(u32::try_from(limits::MAX_TABLES).unwrap_or(16))
                .max_memory_size(limits::MAX_SMALL_MEMORY_BYTES)
                .table_elements(limits::MAX_TABLE_ELEMENTS)
                // A slot keeps these pages, zeroed, for its next user: about a third of the time of a fresh instance.
                .linear_memory_keep_resident(256 << 10)
                .table_keep_resident(16 << 10)
                .async_stack_keep_resident(64 << 10)
                .pagemap_scan(Enabled::Auto)
                .max_unused_warm_slots(100);
            c.allocation_strategy(InstanceAllocationStrategy::Pooling(p))
                .max_wasm_stack(limits::SMALL_WASM_STACK_BYTES)
                .async_stack_size(limits::SMALL_FIBRE_STACK_BYTES)
                .memory_init_cow(true);
        }
        Class::Large => {
            c.allocation_strategy(InstanceAllocationStrategy::OnDemand)
                .max_wasm_stack(limits::LARGE_WASM_STACK_BYTES)
                .async_stack_size(limits::LARGE_FIBRE_STACK_BYTES)
                .memory_init_cow(true);
        }
    }
    Engine::new(&c)
}
