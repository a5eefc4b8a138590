//! Every limit of the listening side, each with its unit in the name or in its doc line.
//!
//! They are defaults: what an operator may change comes in through [`crate::ServerLimits`].

/// Bytes of one request head (request line and header lines together).
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Header lines of one request.
pub const MAX_HEADER_LINES: usize = 64;
/// Bytes of a request target.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;
/// Time to send a whole request head; also the longest idle time of a kept-alive connection.
pub const HEADER_READ_TIMEOUT_MS: u64 = 10_000;
/// Time for the TLS handshake.
pub const TLS_HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// TLS handshakes that have begun and not ended, on the whole listener; one more pushes the oldest out.
pub const TLS_HANDSHAKES_AT_ONCE: usize = 64;
/// TLS handshakes that may begin in a second, on the whole listener; what comes faster waits for its turn.
pub const TLS_HANDSHAKES_PER_SECOND: u32 = 400;
/// TLS handshakes that may begin at one moment after a pause.
pub const TLS_HANDSHAKE_BURST: u32 = 200;
/// Requests answered on one kept-alive HTTP connection before it is closed.
pub const MAX_REQUESTS_PER_CONNECTION: u32 = 1_000;
/// Connections on the listener, all kinds together.
pub const MAX_CONNECTIONS: usize = 20_000;
/// Connections that nobody has authenticated yet. The rest of [`MAX_CONNECTIONS`] is reserved for authenticated ones.
pub const MAX_PREAUTH_CONNECTIONS: usize = 1_024;
/// Places beyond the others, for connections from this machine: its operator gets in when everything is taken.
pub const LOCAL_PLACES: usize = 8;
/// File descriptors that connections leave to databases, guests and agents, beside those that are open at the start.
pub const RESERVED_DESCRIPTORS: usize = 64;
/// Share of the memory limit from which new connections are refused and clients that do not read are cut off, in percent.
pub const TIGHT_PERCENT: u64 = 85;
/// Share of it from which the largest guest is ended, in percent.
pub const CRITICAL_PERCENT: u64 = 95;
/// How far below a level its measures end, in percent of the limit.
pub const RELAX_PERCENT: u64 = 10;
/// Time between two looks at the memory that is used, in ms.
pub const MEMORY_LOOK_MS: u64 = 500;
/// Bytes that may wait for one client while memory is short.
pub const SHED_QUEUE_BYTES: usize = 64 * 1024;
/// Wait after the process ran out of file descriptors.
pub const ACCEPT_BACKOFF_MS: u64 = 100;
/// Bytes that all request bodies of unauthenticated callers may hold in memory at once.
pub const MAX_PREAUTH_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a `POST /rpc` body.
pub const MAX_RPC_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a `POST /v1/chat/completions` body.
pub const MAX_OPENAI_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Messages of one request of the OpenAI-compatible API.
pub const MAX_OPENAI_MESSAGES: usize = 1_024;
/// Bytes of a `POST /tools/invoke` body.
pub const MAX_TOOL_BODY_BYTES: usize = 2 * 1024 * 1024;
/// Time after which a silent stream of events says that it is alive, in ms.
pub const EVENT_STREAM_COMMENT_MS: u64 = 15_000;
/// Time that a request has left whose credential has ended, in ms.
pub const ENDED_CREDENTIAL_GRACE_MS: u64 = 500;
/// Texts of one request for embeddings.
pub const MAX_EMBEDDING_INPUTS: usize = 2_048;
/// Entries of `metadata` of one response.
pub const MAX_METADATA_ENTRIES: usize = 16;
/// Characters of a name in `metadata`.
pub const MAX_METADATA_NAME_CHARS: usize = 64;
/// Characters of a value in `metadata`.
pub const MAX_METADATA_VALUE_CHARS: usize = 512;
/// Bytes of a webhook body.
pub const MAX_WEBHOOK_BODY_BYTES: usize = 1024 * 1024;
/// Longest time to receive one request body.
pub const BODY_DEADLINE_MS: u64 = 30_000;
/// After this grace a body must arrive at [`BODY_MIN_BYTES_PER_SECOND`] or the request ends with 408.
pub const BODY_GRACE_MS: u64 = 5_000;
/// Slowest body that is still read, in bytes per second.
pub const BODY_MIN_BYTES_PER_SECOND: u64 = 1_024;
/// A peer that takes nothing of what we write for this long is cut off.
pub const WRITE_STALL_MS: u64 = 30_000;
/// How long a request goes on whose sender has ended its side of the connection: long enough for a client that half-closes,
/// short enough that a run ends soon after its caller hung up.
pub const HALF_CLOSE_MS: u64 = 500;
/// Bytes thrown away after a refusal, so that the peer can read the refusal before the reset.
pub const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// Time for the same.
pub const LINGER_MS: u64 = 1_000;

/// Read buffer of a WebSocket, held only while a frame is being received.
pub const WS_READ_BUFFER_BYTES: usize = 4 * 1024;
/// Payloads above this are sent without a copy; below it they are gathered into one write.
pub const WS_COPY_BYTES: usize = 4 * 1024;
/// Messages above this leave as several fragments of this size, so that pings can pass between them.
pub const WS_FRAGMENT_BYTES: usize = 64 * 1024;
/// Encoded bytes waiting for the socket; above it the connection reads nothing new from its peer.
pub const WS_WRITE_HIGH_WATER_BYTES: usize = 256 * 1024;
/// Fragments of one incoming message that are shorter than [`WS_SMALL_FRAGMENT_BYTES`].
pub const WS_MAX_SMALL_FRAGMENTS_PER_MESSAGE: u32 = 1_024;
/// A fragment below this costs more to handle than its bytes are worth.
pub const WS_SMALL_FRAGMENT_BYTES: u64 = 64;
/// Time from the first byte of an incoming message to its last.
pub const WS_MESSAGE_DEADLINE_MS: u64 = 60_000;
/// Control frames that a peer may send in one burst.
pub const WS_CONTROL_BURST: u32 = 128;
/// Control frames per second that the burst refills with.
pub const WS_CONTROL_PER_SECOND: u32 = 32;
/// Bytes of control answers (one pong, one close) waiting for the socket.
pub const WS_CONTROL_BYTES: usize = 512;
/// Frames decoded in one go before the connection writes and lets others run.
pub const WS_FRAMES_PER_BATCH: usize = 64;
/// Calls of one connection that run at the same time.
pub const WS_CALLS_IN_FLIGHT: usize = 64;
/// Frames kept while a `connect` is being decided; one more closes the socket.
pub const WS_QUEUED_DURING_CONNECT: usize = 15;
/// Time for the peer to answer a ping.
pub const WS_PONG_DEADLINE_MS: u64 = 25_000;
/// Time for the peer to answer our close frame.
pub const WS_CLOSE_DEADLINE_MS: u64 = 2_000;
/// Bytes of a close reason.
pub const WS_CLOSE_REASON_BYTES: usize = 120;
/// Wrong-role calls in a row before the socket is closed.
pub const WS_REPEATED_UNAUTHORIZED: u32 = 10;
/// Bytes of events waiting in all connections of the listener together.
pub const MAX_QUEUED_EVENT_BYTES_ALL: usize = 256 * 1024 * 1024;
/// Cost that one queued event has besides its payload.
pub const QUEUED_EVENT_OVERHEAD_BYTES: usize = 64;
/// Step of the shared timer: deadlines of connections are kept to this precision.
pub const TIMER_STEP_MS: u64 = 500;
/// Calls in one JSON-RPC batch.
pub const MAX_BATCH_CALLS: usize = 64;
/// Connections that the kernel keeps for a listener that does not accept just now; the system may allow fewer.
pub const LISTEN_BACKLOG_CONNECTIONS: u32 = 4_096;
/// Time in which a gateway that hands its listener over still takes all, and ends each HTTP connection with its answer.
pub const HANDOVER_NOTICE_MS: u64 = 500;
/// Time for HTTP connections that are open then to ask what they were opened for.
pub const HANDOVER_GRACE_MS: u64 = 2_000;
/// Longest time that a start holds connections back until it is ready ([`crate::GatewayServerOptions::accept_when_ready`]).
pub const ACCEPT_HELD_BACK_MS: u64 = 10_000;
/// Time for connections to end after the shutdown event.
pub const SHUTDOWN_DEADLINE_MS: u64 = 5_000;
/// Time between two attempts to announce the gateway in the local network, in ms.
pub const MDNS_RETRY_MS: u64 = 60_000;
/// Time within which a network takes the first announcement, in ms; later it is degraded.
pub const MDNS_ANNOUNCE_WAIT_MS: u64 = 10_000;
/// Time for the goodbye of a gateway that stops, in ms.
pub const MDNS_GOODBYE_MS: u64 = 500;
/// Bytes of a PEM file (a certificate chain or a key).
pub const MAX_PEM_BYTES: u64 = 256 * 1024;
/// Certificates in one chain.
pub const MAX_CERT_CHAIN: usize = 16;
/// Names and addresses in a certificate that the gateway makes.
pub const MAX_CERT_NAMES: usize = 64;
/// Days that a certificate made by the gateway is valid: pinned, so its end protects nobody.
pub const CERT_DAYS: i64 = 3_650;
/// Days before its end from which a certificate is a fault in health.
pub const CERT_EXPIRY_WARNING_DAYS: i64 = 14;
/// Time between two looks at the certificate's files, in ms. Two looks are within the two seconds that a change may take.
pub const CERT_POLL_MS: u64 = 750;
/// Time for one call of the `tailscale` program, in ms.
pub const TAILSCALE_CALL_MAX_MS: u64 = 10_000;
/// Time for giving the name in the tailnet back when the gateway stops, in ms.
pub const TAILSCALE_WITHDRAW_MAX_MS: u64 = 3_000;
/// Between two looks at whether the name is still ours, in ms.
pub const TAILSCALE_LOOK_MS: u64 = 30_000;
/// Most bytes that one call of the `tailscale` program may print.
pub const TAILSCALE_OUTPUT_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Longest text of the program that is told to a person, in characters.
pub const TAILSCALE_TOLD_MAX_CHARS: usize = 200;
/// Questions whose an address is that are under way at once.
pub const WHOIS_AT_ONCE: usize = 4;
/// Addresses whose owners are remembered.
pub const WHOIS_MAX_ENTRIES: usize = 256;
/// How long the owner of an address is believed, in ms.
pub const WHOIS_KEEP_MS: u64 = 30_000;
/// How long it is not asked again where there was no answer, in ms.
pub const WHOIS_RETRY_MS: u64 = 2_000;
