//! Prints what is generated from the tables: `print openrpc|docs|compat`.

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("docs") => print!("{}", gateway_protocol::openrpc::docs_markdown()),
        Some("compat") => print!("{}", gateway_protocol::openrpc::compat_markdown()),
        _ => println!("{:#}", gateway_protocol::openrpc::document()),
    }
}
