;; A hook that does what the first byte of a message's text says. Written by hand, so that it may break rules that a bindings
;; generator keeps. The event comes as one pointer: variant at 0, payload at 4; of message.inbound the text is at 76, 80.
(module
  (memory (export "memory") 8)
  (global $heap (mut i32) (i32.const 65536))
  ;; 256..280 the result: 0 ok or error, 4 which verdict or error, 8 and 12 its text or list
  (data (i32.const 1024) "not with me")
  (data (i32.const 1040) "key")
  (data (i32.const 1044) "\22value\22")
  ;; one pair of texts
  (data (i32.const 1056) "\10\04\00\00\03\00\00\00\14\04\00\00\07\00\00\00")

  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $p i32)
    (local.set $p (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $p) (local.get $size)))
    (local.get $p))

  (func $answer (param $which i32) (param $a i32) (param $b i32) (result i32)
    (i32.store8 (i32.const 256) (i32.const 0))
    (i32.store8 (i32.const 260) (local.get $which))
    (i32.store (i32.const 264) (local.get $a))
    (i32.store (i32.const 268) (local.get $b))
    (i32.const 256))

  (func (export "gateway:hook/policy@0.1.0#judge") (param $event i32) (result i32)
    (local $c i32)
    ;; other events pass
    (if (i32.ne (i32.load8_u (local.get $event)) (i32.const 0))
      (then (return (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))))
    (local.set $c (i32.load8_u (i32.load (i32.add (local.get $event) (i32.const 76)))))
    ;; d: denies
    (if (i32.eq (local.get $c) (i32.const 100))
      (then (return (call $answer (i32.const 2) (i32.const 1024) (i32.const 11)))))
    ;; a: notes one pair
    (if (i32.eq (local.get $c) (i32.const 97))
      (then (return (call $answer (i32.const 1) (i32.const 1056) (i32.const 1)))))
    ;; x: notes more than is allowed
    (if (i32.eq (local.get $c) (i32.const 120))
      (then (return (call $answer (i32.const 1) (i32.const 4096) (i32.const 1000)))))
    ;; z: a reason that is longer than its memory
    (if (i32.eq (local.get $c) (i32.const 122))
      (then (return (call $answer (i32.const 2) (i32.const 1024) (i32.const 0x7fffffff)))))
    ;; e: an error of its own
    (if (i32.eq (local.get $c) (i32.const 101))
      (then
        (drop (call $answer (i32.const 7) (i32.const 1024) (i32.const 11)))
        (i32.store8 (i32.const 256) (i32.const 1))
        (return (i32.const 256))))
    ;; t: traps
    (if (i32.eq (local.get $c) (i32.const 116)) (then unreachable))
    ;; l: loops
    (if (i32.eq (local.get $c) (i32.const 108)) (then (loop $for_ever (br $for_ever))))
    ;; m: wants all memory there is
    (if (i32.eq (local.get $c) (i32.const 109))
      (then
        (loop $more
          (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        unreachable))
    ;; k: remembers that it was asked, and passes only the first time in this instance
    (if (i32.eq (local.get $c) (i32.const 107))
      (then
        (if (i32.load (i32.const 2048))
          (then (return (call $answer (i32.const 2) (i32.const 1024) (i32.const 11)))))
        (i32.store (i32.const 2048) (i32.const 1))))
    (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))
)
