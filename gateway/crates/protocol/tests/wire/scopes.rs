use gateway_protocol::method::ConnRole;
use gateway_protocol::{Access, Audience, Scope, ScopeSet};
use proptest::prelude::*;

fn any_set() -> impl Strategy<Value = ScopeSet> {
    proptest::collection::vec(proptest::sample::select(Scope::ALL.to_vec()), 0..8)
        .prop_map(|v| v.into_iter().collect())
}

proptest! {
    /// What a connection gets is within what it asked for and within what its credential may have, and nothing
    /// that both allow is taken away.
    ///
    /// Covers: A2.
    #[test]
    fn effective_is_within_request_and_ceiling(requested in any_set(), ceiling in any_set()) {
        let effective = ScopeSet::effective(requested, ceiling);
        prop_assert!(effective.is_within(requested));
        prop_assert!(effective.is_within(ceiling));
        for scope in Scope::ALL {
            prop_assert_eq!(effective.allows(scope), requested.allows(scope) && ceiling.allows(scope));
        }
        prop_assert_eq!(ScopeSet::effective(effective, ceiling), effective);
    }

    /// `allows` and the closure say the same.
    #[test]
    fn closure_is_what_is_allowed(set in any_set()) {
        for scope in Scope::ALL {
            prop_assert_eq!(set.allows(scope), set.closure().iter().any(|s| s == scope));
        }
    }

    /// Names that are reported as granted give no right that was not granted, whatever strings were asked for.
    ///
    /// Covers: A2.
    #[test]
    fn reported_names_grant_nothing_more(
        requested in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(Scope::ALL.to_vec()).prop_map(|s| s.as_str().to_owned()),
                "[a-zA-Z.* ]{0,20}",
                Just("operator.bogus".to_owned()),
                Just("OPERATOR.ADMIN".to_owned()),
                Just(" operator.admin".to_owned()),
            ],
            0..6,
        ),
        ceiling in any_set(),
    ) {
        let effective = ScopeSet::effective(ScopeSet::parse(&requested), ceiling);
        let names = ScopeSet::granted_names(&requested, ceiling);
        prop_assert_eq!(ScopeSet::parse(&names).closure(), effective.closure());
    }
}

/// Covers: A2.
#[test]
fn unknown_scopes_grant_nothing() {
    let names = [
        "operator.bogus",
        "operator",
        "operator.*",
        "admin",
        "OPERATOR.ADMIN",
        "operator.admin ",
        "",
    ];
    assert!(ScopeSet::parse(names).is_empty());
    // They are echoed, as existing clients expect, and still nothing is allowed.
    let requested: Vec<String> = vec!["operator.bogus".into(), "operator.read".into()];
    assert_eq!(
        ScopeSet::granted_names(&requested, ScopeSet::ALL),
        requested
    );
    assert_eq!(
        ScopeSet::granted_names(&requested, ScopeSet::NONE),
        ["operator.bogus"]
    );
}

#[test]
fn a_lower_ceiling_leaves_what_it_covers() {
    let requested: Vec<String> = vec!["operator.admin".into()];
    let names = ScopeSet::granted_names(&requested, ScopeSet::of(Scope::Write));
    assert_eq!(ScopeSet::parse(&names).closure(), Scope::Write.closure());
    assert!(!names.contains(&"operator.admin".to_owned()));
}

#[test]
fn implications() {
    for scope in Scope::ALL {
        assert!(ScopeSet::of(Scope::Admin).allows(scope));
        let by_write = matches!(scope, Scope::Write | Scope::Read | Scope::Talk);
        assert_eq!(
            ScopeSet::of(Scope::Write).allows(scope),
            by_write,
            "{scope}"
        );
        assert_eq!(
            ScopeSet::of(Scope::Read).allows(scope),
            scope == Scope::Read,
            "{scope}"
        );
        assert!(!ScopeSet::NONE.allows(scope));
        assert_eq!(scope.as_str().parse(), Ok(scope));
    }
}

#[test]
fn access_refusals_are_the_recorded_ones() {
    let error = Access::Operator(Scope::Admin)
        .check(ConnRole::Operator, ScopeSet::of(Scope::Write))
        .unwrap_err();
    assert_eq!(
        serde_json::to_value(&error).unwrap(),
        serde_json::json!({
            "code": "FORBIDDEN",
            "message": "missing scope: operator.admin",
            "details": { "code": "MISSING_SCOPE", "missingScope": "operator.admin", "requiredScopes": ["operator.admin"] },
        })
    );
    let error = Access::Operator(Scope::Read)
        .check(ConnRole::Node, ScopeSet::ALL)
        .unwrap_err();
    assert_eq!(
        serde_json::to_value(&error).unwrap(),
        serde_json::json!({ "code": "INVALID_REQUEST", "message": "unauthorized role: node" })
    );
    assert!(
        Access::Any
            .check(ConnRole::Operator, ScopeSet::NONE)
            .is_ok()
    );
    assert!(
        Access::Node
            .check(ConnRole::Operator, ScopeSet::ALL)
            .is_err()
    );
}

#[test]
fn only_admins_learn_that_a_method_is_unknown() {
    use gateway_protocol::method::refuse_unknown;
    let error = refuse_unknown(
        "no.such.method",
        ConnRole::Operator,
        ScopeSet::of(Scope::Write),
    );
    assert_eq!(error.message, "missing scope: operator.admin");
    let error = refuse_unknown("no.such.method", ConnRole::Operator, ScopeSet::ALL);
    assert_eq!(
        serde_json::to_value(&error).unwrap(),
        serde_json::json!({ "code": "INVALID_REQUEST", "message": "unknown method: no.such.method" })
    );
    // Client text inside a message is short and harmless.
    let error = refuse_unknown(
        &format!("a\u{1b}[31m{}", "x".repeat(500)),
        ConnRole::Operator,
        ScopeSet::ALL,
    );
    assert!(error.message.len() < 120 && !error.message.contains('\u{1b}'));
}

#[test]
fn audiences() {
    assert!(Audience::Any.admits(ConnRole::Node, ScopeSet::NONE));
    assert!(!Audience::Targeted.admits(ConnRole::Operator, ScopeSet::ALL));
    assert!(!Audience::Scope(Scope::Read).admits(ConnRole::Node, ScopeSet::ALL));
    assert!(!Audience::Scope(Scope::Read).admits(ConnRole::Operator, ScopeSet::of(Scope::Pairing)));
    assert!(Audience::Scope(Scope::Read).admits(ConnRole::Operator, ScopeSet::of(Scope::Write)));
}
