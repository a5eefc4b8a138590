//! Writes the generated pages: `cargo run -p gateway --example schema -- DIR`. `cargo xtask schema` calls it.
//!
//! Everything comes from the tables of the protocol and from the options of the configuration, so that the pages cannot say
//! something else than the code.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: schema DIR");
        return ExitCode::FAILURE;
    };
    let pages = [
        ("protocol.md", gateway_protocol::openrpc::docs_markdown()),
        ("compat.md", gateway_protocol::openrpc::compat_markdown()),
        (
            "openrpc.json",
            pretty(&gateway_protocol::openrpc::document()),
        ),
        ("openapi.json", pretty(&gateway_server::openapi::document())),
        (
            "config.schema.json",
            pretty(&gateway_config::options_schema()),
        ),
    ];
    for (name, text) in pages {
        let path = dir.join(name);
        if let Err(why) = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text)) {
            eprintln!("{}: {why}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
