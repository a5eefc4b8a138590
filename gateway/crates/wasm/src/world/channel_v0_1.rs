//! `gateway:channel/channel@0.1.0`.
#![allow(missing_docs)] // generated; the texts are in wit/

wasmtime::component::bindgen!({
    path: "../../../wit",
    world: "gateway:channel/channel@0.1.0",
    imports: { default: trappable },
    exports: { default: async },
});
