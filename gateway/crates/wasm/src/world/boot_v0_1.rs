//! `gateway:boot/boot-script@0.1.0`. The host interfaces are those of the channel world.
#![allow(missing_docs)] // generated; the texts are in wit/

wasmtime::component::bindgen!({
    path: "../../../wit",
    world: "gateway:boot/boot-script@0.1.0",
    imports: { default: trappable },
    exports: { default: async },
});
