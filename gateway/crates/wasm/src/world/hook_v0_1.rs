//! `gateway:hook/hook@0.1.0`. Types and the interfaces that the channel world has too are those of its bindings.
#![allow(missing_docs, clippy::all, clippy::pedantic)] // generated; the texts are in wit/

wasmtime::component::bindgen!({
    path: "../../../wit",
    world: "gateway:hook/hook@0.1.0",
    imports: { default: trappable },
    exports: { default: async },
    with: {
        "gateway:types/types@0.1.0": super::channel_v0_1::gateway::types::types,
        "gateway:host/log@0.1.0": super::channel_v0_1::gateway::host::log,
        "gateway:host/config@0.1.0": super::channel_v0_1::gateway::host::config,
    },
});
