//! Scopes: what an operator connection may do, and what follows from what.

use std::fmt;
use std::str::FromStr;

/// One operator scope. The set is closed; a scope string that is not in it grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// Read state and receive most events.
    Read = 0,
    /// Change sessions, send messages; implies `Read` and `Talk`.
    Write = 1,
    /// Everything.
    Admin = 2,
    /// See and answer approval requests.
    Approvals = 3,
    /// See and answer questions of agents.
    Questions = 4,
    /// Approve and remove devices, nodes and channel contacts.
    Pairing = 5,
    /// Use voice sessions.
    Talk = 6,
    /// Read voice credentials.
    TalkSecrets = 7,
}

impl Scope {
    /// All scopes, in the order of their names on the wire.
    pub const ALL: [Scope; 8] = [
        Scope::Read,
        Scope::Write,
        Scope::Admin,
        Scope::Approvals,
        Scope::Questions,
        Scope::Pairing,
        Scope::Talk,
        Scope::TalkSecrets,
    ];

    /// The name on the wire, for example `operator.read`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "operator.read",
            Scope::Write => "operator.write",
            Scope::Admin => "operator.admin",
            Scope::Approvals => "operator.approvals",
            Scope::Questions => "operator.questions",
            Scope::Pairing => "operator.pairing",
            Scope::Talk => "operator.talk",
            Scope::TalkSecrets => "operator.talk.secrets",
        }
    }

    /// This scope and everything that follows from holding it.
    pub const fn closure(self) -> ScopeSet {
        match self {
            Scope::Admin => ScopeSet::ALL,
            Scope::Write => ScopeSet(Scope::Write.bit() | Scope::Read.bit() | Scope::Talk.bit()),
            other => ScopeSet(other.bit()),
        }
    }

    const fn bit(self) -> u16 {
        1 << (self as u8)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The string is not a scope that this gateway knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Scope::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or(UnknownScope)
    }
}

/// A set of scopes. It holds what was inserted; [`ScopeSet::allows`] follows the implications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScopeSet(u16);

impl ScopeSet {
    /// No scope: only methods with `Access::Any` answer.
    pub const NONE: ScopeSet = ScopeSet(0);
    /// Every scope.
    pub const ALL: ScopeSet = ScopeSet(0xff);

    /// A set of just this scope.
    pub const fn of(scope: Scope) -> ScopeSet {
        ScopeSet(scope.bit())
    }

    /// Reads scope names; unknown names grant nothing and are left out.
    pub fn parse<I>(names: I) -> ScopeSet
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        names
            .into_iter()
            .filter_map(|n| n.as_ref().parse().ok())
            .collect()
    }

    /// Adds a scope.
    pub fn insert(&mut self, scope: Scope) {
        self.0 |= scope.bit();
    }

    /// True when nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes that were inserted, without the implied ones.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |s| self.0 & s.bit() != 0)
    }

    /// The set with everything that follows from it.
    pub fn closure(self) -> ScopeSet {
        self.iter()
            .fold(ScopeSet::NONE, |set, s| ScopeSet(set.0 | s.closure().0))
    }

    /// True when the set holds the scope or one that implies it (admin implies all, write implies read and talk).
    pub const fn allows(self, scope: Scope) -> bool {
        if self.0 & Scope::Admin.bit() != 0 || self.0 & scope.bit() != 0 {
            return true;
        }
        self.0 & Scope::Write.bit() != 0 && matches!(scope, Scope::Read | Scope::Talk)
    }

    /// True when every right of `self` is also a right of `other`.
    pub fn is_within(self, other: ScopeSet) -> bool {
        self.closure().0 & !other.closure().0 == 0
    }

    /// What a connection gets: never more than it asked for, never more than its credential may have.
    /// The result is closed under implication.
    pub fn effective(requested: ScopeSet, ceiling: ScopeSet) -> ScopeSet {
        ScopeSet(requested.closure().0 & ceiling.closure().0)
    }

    /// The names to report as granted: what was asked for, verbatim and in order (unknown names too, they
    /// grant nothing), without those that the ceiling forbids, and with what is left of a forbidden wider one.
    pub fn granted_names(requested: &[String], ceiling: ScopeSet) -> Vec<String> {
        let effective = ScopeSet::effective(ScopeSet::parse(requested), ceiling);
        let mut names: Vec<String> = requested
            .iter()
            .filter(|name| name.parse::<Scope>().map_or(true, |s| effective.allows(s)))
            .cloned()
            .collect();
        let mut held = ScopeSet::parse(&names);
        for scope in effective.iter() {
            if !held.allows(scope) {
                names.push(scope.as_str().to_owned());
                held.insert(scope);
            }
        }
        names
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(iter: I) -> Self {
        let mut set = ScopeSet::NONE;
        for scope in iter {
            set.insert(scope);
        }
        set
    }
}
