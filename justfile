# Short names for what `cargo xtask` does.

# list the recipes
default:
    @just --list

# build the gateway and its guests, then run it: just serve --port 18789
serve *args:
    cargo xtask serve {{args}}

# everything, in short rounds; installs what it needs
test:
    cargo xtask test

# everything, in long rounds
test-long:
    cargo xtask test --long

# the fuzz targets: just fuzz, just fuzz url head
fuzz *names:
    cargo xtask fuzz {{names}}

# build the guests to target/guests/
guests:
    cargo xtask guests

# what a person downloads: below target/dist
dist:
    cargo xtask dist

# write the generated pages of docs/
schema:
    cargo xtask schema

# the bench program, as release build
bench *args:
    cargo xtask bench {{args}}

# what CI runs
ci:
    bash .ci/run

# format both workspaces
fmt:
    cargo fmt --all
    cd guest-plugins && cargo fmt --all

# clippy of both workspaces, warnings are errors
lint:
    cargo clippy --locked --workspace --all-targets --features gateway-server/test-echo -- -D warnings
    cd guest-plugins && cargo clippy --locked --workspace --all-targets -- -D warnings
