//! `gateway:channel/channel@0.1.0`.
#![allow(missing_docs, clippy::all, clippy::pedantic)] // generated; the texts are in wit/

wasmtime::component::bindgen!({
    path: "../../../wit",
    world: "gateway:channel/channel@0.1.0",
    imports: {
        "gateway:host/kv@0.1.0.get": async | trappable,
        "gateway:host/kv@0.1.0.list": async | trappable,
        "gateway:host/http@0.1.0.fetch": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});
