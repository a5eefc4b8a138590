;; A guest that does what the first byte of a webhook's body (or of a message's text) says. Written by hand, so that the tests
;; of the host need no compiler for guests, and so that it may break rules that a bindings generator keeps.
(module
  (import "gateway:host/log@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "gateway:host/clock@0.1.0" "now-ms" (func $now (result i64)))
  (import "gateway:host/random@0.1.0" "bytes" (func $random (param i32 i32)))
  (import "gateway:host/kv@0.1.0" "get" (func $kv_get (param i32 i32 i32)))
  (import "gateway:host/kv@0.1.0" "set" (func $kv_set (param i32 i32 i32 i32 i32)))
  (import "gateway:host/http@0.1.0" "fetch" (func $fetch (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "gateway:host/http@0.1.0" "submit" (func $submit (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "gateway:host/inbound@0.1.0" "emit" (func $emit (param i32 i32)))
  (import "gateway:host/timer@0.1.0" "set-wake" (func $set_wake (param i32)))

  (memory (export "memory") 8)
  (table $t 100 funcref)
  (elem declare func $nop)
  (global $heap (mut i32) (i32.const 65536))
  (global $save_len (mut i32) (i32.const 0))

  ;; 0..256 stays zero: read as a result it is `ok` of something empty.
  ;; 256..512 results of host functions, 512..768 results of ours
  (data (i32.const 1024) "GET")
  (data (i32.const 1032) "https://platform.example/x")
  (data (i32.const 1064) "key")
  (data (i32.const 1072) "forged")
  (data (i32.const 1080) "poll")
  (data (i32.const 1088) "why")
  ;; 1100: the message id "m?" or three digits
  (data (i32.const 1100) "m000")
  (data (i32.const 1104) "\1b[31mred\0anext")

  ;; an inbound-message at 2048; platform-message-id is set by the code
  (data (i32.const 2060) "\b8\0b\00\00\02\00\00\00")      ;; conversation.id at 12..20: ptr 3000, len 2
  (data (i32.const 2080) "\ba\0b\00\00\02\00\00\00")      ;; sender.id at 32..40: ptr 3002, len 2
  (data (i32.const 2104) "\bc\0b\00\00\02\00\00\00")      ;; text at 56..64: ptr 3004, len 2
  (data (i32.const 2112) "\01")                           ;; mentioned
  (data (i32.const 3000) "c1s1hi")

  (func $nop)
  (func $realloc (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $p i32)
    (local.set $p (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $p) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
      (then
        (if (i32.eq (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))) (i32.const -1))
          (then unreachable))))
    (local.get $p))

  ;; emits the message with the id of `len` bytes at 1100; gives the first byte of the result
  (func $emit_id (param $len i32) (result i32)
    (i32.store (i32.const 2048) (i32.const 1100))
    (i32.store (i32.const 2052) (local.get $len))
    (call $emit (i32.const 2048) (i32.const 256))
    (i32.load8_u (i32.const 256)))

  (func $do_fetch
    (call $fetch (i32.const 1024) (i32.const 3) (i32.const 1032) (i32.const 26) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 5000) (i32.const 256)))

  (func $fail (param $case i32) (param $payload i32) (param $len i32) (result i32)
    (i32.store (i32.const 512) (i32.const 1))
    (i32.store (i32.const 516) (local.get $case))
    (i32.store (i32.const 520) (local.get $payload))
    (i32.store (i32.const 524) (local.get $len))
    (i32.const 512))

  (func $recurse (param $n i64) (result i64)
    (i64.add (call $recurse (i64.add (local.get $n) (i64.const 1))) (local.get $n)))

  ;; does command $c with its argument byte $arg; gives the address of the result
  (func $do (param $c i32) (param $arg i32) (result i32)
    (local $i i32)
    ;; t: trap
    (if (i32.eq (local.get $c) (i32.const 0x74)) (then unreachable))
    ;; l: loop without end
    (if (i32.eq (local.get $c) (i32.const 0x6c)) (then (loop $l (br $l))))
    ;; L: recurse without end
    (if (i32.eq (local.get $c) (i32.const 0x4c)) (then (drop (call $recurse (i64.const 0)))))
    ;; m: take and touch all memory there is, then trap; M: the same and go on
    (if (i32.or (i32.eq (local.get $c) (i32.const 0x6d)) (i32.eq (local.get $c) (i32.const 0x4d)))
      (then
        (block $full
          (loop $more
            (local.set $i (memory.grow (i32.const 16)))
            (br_if $full (i32.eq (local.get $i) (i32.const -1)))
            (memory.fill (i32.mul (local.get $i) (i32.const 65536)) (i32.const 0xaa) (i32.const 1048576))
            (br $more)))
        (if (i32.eq (local.get $c) (i32.const 0x6d)) (then unreachable))))
    ;; g: 700 log lines
    (if (i32.eq (local.get $c) (i32.const 0x67))
      (then
        (loop $lines
          (call $log (i32.const 2) (i32.const 1104) (i32.const 13))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $lines (i32.lt_u (local.get $i) (i32.const 700))))))
    ;; h: host calls without end
    (if (i32.eq (local.get $c) (i32.const 0x68)) (then (loop $l (drop (call $now)) (br $l))))
    ;; s: a log line of 3 MiB
    (if (i32.eq (local.get $c) (i32.const 0x73))
      (then
        (drop (memory.grow (i32.const 64)))
        (call $log (i32.const 2) (i32.const 65536) (i32.const 3145728))))
    ;; S: a log line that ends outside of the memory
    (if (i32.eq (local.get $c) (i32.const 0x53)) (then (call $log (i32.const 2) (i32.const 65536) (i32.const 0x7fffffff))))
    ;; b: a table of a million elements; traps when it is refused
    (if (i32.eq (local.get $c) (i32.const 0x62))
      (then (if (i32.eq (table.grow $t (ref.null func) (i32.const 1000000)) (i32.const -1)) (then unreachable))))
    ;; r: more random bytes than allowed
    (if (i32.eq (local.get $c) (i32.const 0x72)) (then (call $random (i32.const 100000) (i32.const 256))))
    ;; e: emit the message m<arg>; d: emit it twice; E: emit it and trap
    (i32.store8 (i32.const 1101) (local.get $arg))
    (if (i32.or (i32.eq (local.get $c) (i32.const 0x65)) (i32.eq (local.get $c) (i32.const 0x45)))
      (then
        (if (call $emit_id (i32.const 2)) (then unreachable))
        (if (i32.eq (local.get $c) (i32.const 0x45)) (then unreachable))))
    (if (i32.eq (local.get $c) (i32.const 0x64))
      (then
        (drop (call $emit_id (i32.const 2)))
        (if (call $emit_id (i32.const 2)) (then unreachable))
        ;; the outcome must be `duplicate`
        (if (i32.ne (i32.load8_u (i32.const 260)) (i32.const 1)) (then unreachable))))
    ;; x: emit 150 messages; those after the hundredth must be `throttled`
    (if (i32.eq (local.get $c) (i32.const 0x78))
      (then
        (loop $next
          (i32.store8 (i32.const 1101) (i32.add (i32.const 48) (i32.div_u (local.get $i) (i32.const 100))))
          (i32.store8 (i32.const 1102) (i32.add (i32.const 48) (i32.rem_u (i32.div_u (local.get $i) (i32.const 10)) (i32.const 10))))
          (i32.store8 (i32.const 1103) (i32.add (i32.const 48) (i32.rem_u (local.get $i) (i32.const 10))))
          (if (call $emit_id (i32.const 4)) (then unreachable))
          (if (i32.ne (i32.load8_u (i32.const 260)) (i32.mul (i32.const 2) (i32.ge_u (local.get $i) (i32.const 100)))) (then unreachable))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $i) (i32.const 150))))))
    ;; H: emit with a handle that is not ours; traps when that is taken
    (if (i32.eq (local.get $c) (i32.const 0x48))
      (then
        (i32.store (i32.const 2136) (i32.const 1))
        (i32.store (i32.const 2140) (i32.const 1072))
        (i32.store (i32.const 2144) (i32.const 6))
        (if (i32.eqz (call $emit_id (i32.const 2))) (then unreachable))))
    ;; D: an id with a control character; traps when it is taken
    (if (i32.eq (local.get $c) (i32.const 0x44))
      (then
        (i32.store8 (i32.const 1101) (i32.const 10))
        (if (i32.eqz (call $emit_id (i32.const 2))) (then unreachable))))
    ;; k: set key to <arg> and read it back; K: set it and trap
    (if (i32.or (i32.eq (local.get $c) (i32.const 0x6b)) (i32.eq (local.get $c) (i32.const 0x4b)))
      (then
        (call $kv_set (i32.const 1064) (i32.const 3) (i32.const 1101) (i32.const 1) (i32.const 256))
        (if (i32.eq (local.get $c) (i32.const 0x4b)) (then unreachable))))
    ;; q and k: key must be <arg>
    (if (i32.or (i32.eq (local.get $c) (i32.const 0x6b)) (i32.eq (local.get $c) (i32.const 0x71)))
      (then
        (call $kv_get (i32.const 1064) (i32.const 3) (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then unreachable))
        (if (i32.eqz (i32.load8_u (i32.const 260))) (then unreachable))
        (if (i32.ne (i32.load8_u (i32.load (i32.const 264))) (local.get $arg)) (then unreachable))))
    ;; v: a value over the limit; traps when it is taken
    (if (i32.eq (local.get $c) (i32.const 0x76))
      (then
        (call $kv_set (i32.const 1064) (i32.const 3) (i32.const 65536) (i32.const 300000) (i32.const 256))
        (if (i32.eqz (i32.load8_u (i32.const 256))) (then unreachable))))
    ;; V: too large a state
    (if (i32.eq (local.get $c) (i32.const 0x56)) (then (global.set $save_len (i32.const 70000))))
    ;; y: a state of one byte, <arg>
    (if (i32.eq (local.get $c) (i32.const 0x79)) (then (global.set $save_len (i32.const 1))))
    ;; w: alarm in a second; u: two submits with one tag
    (if (i32.eq (local.get $c) (i32.const 0x77)) (then (call $set_wake (i32.const 1000))))
    (if (i32.eq (local.get $c) (i32.const 0x75))
      (then
        (loop $twice
          (call $submit (i32.const 1080) (i32.const 4) (i32.const 1024) (i32.const 3) (i32.const 1032) (i32.const 26)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 900000) (i32.const 256))
          (if (i32.load8_u (i32.const 256)) (then unreachable))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $twice (i32.lt_u (local.get $i) (i32.const 2))))))
    ;; c: fill all memory and the table; C: nothing of that may be seen
    (if (i32.eq (local.get $c) (i32.const 0x63))
      (then
        (drop (memory.grow (i32.const 300)))
        (local.set $i (i32.const 65536))
        (loop $fill
          (i64.store (local.get $i) (i64.const 0x5eed5eed0badcafe))
          (local.set $i (i32.add (local.get $i) (i32.const 8)))
          (br_if $fill (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))
        (table.fill $t (i32.const 0) (ref.func $nop) (i32.const 100))))
    (if (i32.eq (local.get $c) (i32.const 0x43))
      (then
        (drop (memory.grow (i32.const 300)))
        (local.set $i (i32.const 0))
        (loop $scan
          (if (i64.eq (i64.load (local.get $i)) (i64.const 0x5eed5eed0badcafe)) (then unreachable))
          (local.set $i (i32.add (local.get $i) (i32.const 8)))
          (br_if $scan (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))
        (local.set $i (i32.const 0))
        (loop $refs
          (if (i32.eqz (ref.is_null (table.get $t (local.get $i)))) (then unreachable))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $refs (i32.lt_u (local.get $i) (table.size $t))))))
    ;; f: fetch; F: fetch and trap; N: fetch and say that the network failed
    (if (i32.eq (local.get $c) (i32.const 0x66)) (then (call $do_fetch)))
    (if (i32.eq (local.get $c) (i32.const 0x46)) (then (call $do_fetch) unreachable))
    (if (i32.eq (local.get $c) (i32.const 0x4e)) (then (call $do_fetch) (return (call $fail (i32.const 5) (i32.const 1088) (i32.const 3)))))
    ;; R: rate limited for 7000 ms; A: auth; I: internal
    (if (i32.eq (local.get $c) (i32.const 0x52)) (then (return (call $fail (i32.const 1) (i32.const 7000) (i32.const 0)))))
    (if (i32.eq (local.get $c) (i32.const 0x41)) (then (return (call $fail (i32.const 0) (i32.const 1088) (i32.const 3)))))
    (if (i32.eq (local.get $c) (i32.const 0x49)) (then (return (call $fail (i32.const 7) (i32.const 1088) (i32.const 3)))))
    ;; a: an action for a handle that is not ours
    (if (i32.eq (local.get $c) (i32.const 0x61))
      (then
        (memory.fill (i32.const 600) (i32.const 0) (i32.const 64))
        (i32.store (i32.const 604) (i32.const 1072))
        (i32.store (i32.const 608) (i32.const 6))
        (i32.store16 (i32.const 612) (i32.const 200))
        (memory.fill (i32.const 512) (i32.const 0) (i32.const 16))
        (i32.store (i32.const 516) (i32.const 600))
        (i32.store (i32.const 520) (i32.const 1))
        (return (i32.const 512))))
    ;; z: says that it returns ten million actions
    (if (i32.eq (local.get $c) (i32.const 0x7a))
      (then
        (memory.fill (i32.const 512) (i32.const 0) (i32.const 16))
        (i32.store (i32.const 516) (i32.const 600))
        (i32.store (i32.const 520) (i32.const 10000000))
        (return (i32.const 512))))
    (i32.const 0))

  (func (export "gateway:channel/adapter@0.1.0#describe") (result i32) (i32.const 0))
  (func (export "gateway:channel/adapter@0.1.0#init") (param i32 i32) (param $state i32) (param $len i32) (result i32)
    ;; a state that begins with T is a trap, so that a test can see which state came
    (if (local.get $len) (then (if (i32.eq (i32.load8_u (local.get $state)) (i32.const 0x54)) (then unreachable))))
    (i32.const 0))
  (func (export "gateway:channel/adapter@0.1.0#on-event") (param $p i32) (param $n i32) (result i32)
    ;; only webhooks (case 1) have a command
    (if (i32.ne (i32.load8_u (local.get $p)) (i32.const 1)) (then (return (i32.const 0))))
    (local.set $p (i32.load (i32.add (local.get $p) (i32.const 44))))
    (call $do (i32.load8_u (local.get $p)) (i32.load8_u (i32.add (local.get $p) (i32.const 1)))))
  (func (export "gateway:channel/adapter@0.1.0#send") (param $m i32) (result i32)
    (call $do (i32.load8_u (i32.load (i32.add (local.get $m) (i32.const 24)))) (i32.const 0)))
  (func (export "gateway:channel/adapter@0.1.0#edit") (param i32) (result i32) (i32.const 0))
  (func (export "gateway:channel/adapter@0.1.0#save") (result i32)
    (memory.fill (i32.const 768) (i32.const 0) (i32.const 16))
    (i32.store (i32.const 772) (i32.const 1101))
    (i32.store (i32.const 776) (global.get $save_len))
    (i32.const 768))
)
