//! What a method is: name, scope, class, parameters, result; and how its parameters are decoded.

use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::RpcError;
use crate::json::{self, Asks, Walk};
use crate::scope::{Scope, ScopeSet};
use crate::validate;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every authenticated connection, also one without scopes.
    Any,
    /// Operators with this scope.
    Operator(Scope),
    /// Nodes.
    Node,
}

/// The role of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnRole {
    /// A person or a program that operates the gateway.
    Operator,
    /// A node.
    Node,
}

impl ConnRole {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ConnRole::Operator => "operator",
            ConnRole::Node => "node",
        }
    }
}

impl Access {
    /// Checks role and scopes; the error is the one that goes out.
    pub fn check(self, role: ConnRole, scopes: ScopeSet) -> Result<(), RpcError> {
        match (self, role) {
            (Access::Any, _) | (Access::Node, ConnRole::Node) => Ok(()),
            (Access::Operator(scope), ConnRole::Operator) if scopes.allows(scope) => Ok(()),
            (Access::Operator(scope), ConnRole::Operator) => Err(RpcError::missing_scope(scope)),
            (Access::Operator(_), ConnRole::Node) | (Access::Node, ConnRole::Operator) => {
                Err(RpcError::wrong_role(role.as_str()))
            }
        }
    }
}

/// The answer to a method name that nobody registered: only callers with admin learn that it is unknown.
pub fn refuse_unknown(name: &str, role: ConnRole, scopes: ScopeSet) -> RpcError {
    match Access::Operator(Scope::Admin).check(role, scopes) {
        Ok(()) => RpcError::unknown_method(name),
        Err(refusal) => refusal,
    }
}

/// How a method behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Reads; may be cancelled when the caller goes away.
    Query,
    /// Changes something; is finished once begun.
    Command,
    /// May wait longer than the default deadline.
    Wait,
}

/// What this gateway does with a published parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// It does what it says.
    Honoured,
    /// Accepted without effect; nobody could miss the effect.
    Ignored,
    /// `unsupported: NAME` when it asks for anything ([`Asks::Nothing`] says what does not).
    Refused,
}

impl Rule {
    /// The word for the documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Rule::Honoured => "honoured",
            Rule::Ignored => "ignored",
            Rule::Refused => "refused",
        }
    }
}

/// One published parameter.
#[derive(Clone, Copy, Debug)]
pub struct ParamSpec {
    /// Name on the wire.
    pub name: &'static str,
    /// What happens with it.
    pub rule: Rule,
    /// One sentence: what it does, or why it is ignored or refused.
    pub doc: &'static str,
}

/// Parameters of a method.
pub trait Params:
    DeserializeOwned + Serialize + JsonSchema + Default + std::fmt::Debug + Send + 'static
{
    /// All published parameters, also those that are ignored or refused.
    const PARAMS: &'static [ParamSpec];
}

/// A method of the registry. Implemented by the [`crate::methods!`] macro.
pub trait Method: Send + Sync + 'static {
    /// Name on the wire.
    const NAME: &'static str;
    /// One sentence, shown in OpenRPC, docs and CLI.
    const DOC: &'static str;
    /// Who may call it.
    const ACCESS: Access;
    /// How it behaves.
    const CLASS: Class;
    /// Its parameters.
    type Params: Params;
    /// Its result.
    type Result: Serialize + JsonSchema + Send + 'static;
    /// The row of this method in the registry.
    const SPEC: &'static MethodSpec;
}

/// A method as data.
#[derive(Debug)]
pub struct MethodSpec {
    /// Name on the wire.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Who may call it.
    pub access: Access,
    /// How it behaves.
    pub class: Class,
    /// All published parameters.
    pub params: &'static [ParamSpec],
    /// Schema of the honoured parameters.
    pub params_schema: fn() -> Schema,
    /// Schema of the result.
    pub result_schema: fn() -> Schema,
    /// Whether it is listed in `features.methods`.
    pub advertised: bool,
    /// Whether OpenClaw has a method of this name. The others are ours.
    pub published: bool,
}

impl MethodSpec {
    /// The published parameter of this name.
    pub fn param(&self, name: &str) -> Option<&ParamSpec> {
        self.params.iter().find(|p| p.name == name)
    }

    /// True when some parameter is refused.
    pub fn refuses_any(&self) -> bool {
        self.params.iter().any(|p| p.rule == Rule::Refused)
    }
}

/// The schema of a type, as a plain function for tables.
pub fn schema_of<T: JsonSchema>() -> Schema {
    schemars::schema_for!(T)
}

/// All methods, sorted by name.
pub fn all() -> &'static [&'static MethodSpec] {
    crate::methods::ALL
}

/// The method of this name.
pub fn find(name: &str) -> Option<&'static MethodSpec> {
    all()
        .binary_search_by(|spec| spec.name.cmp(name))
        .ok()
        .map(|i| all()[i])
}

/// Decodes the parameters of a method. Absent and `null` parameters count as `{}`.
///
/// `strict` (the JSON-RPC surface) refuses names that nobody published and names that occur twice; the v4
/// surface ignores them. Errors: `unsupported: NAME`, or `invalid <method> params: at /path: …`.
pub fn decode<M: Method>(raw: Option<&RawValue>, strict: bool) -> Result<M::Params, RpcError> {
    let text = match raw.map(RawValue::get) {
        None | Some("null") => "{}",
        Some(text) => text,
    };
    // A derived struct would also read an array, by position; parameters are given by name.
    if !text.starts_with('{') {
        return Err(RpcError::invalid_params(M::NAME, "must be object"));
    }
    if strict || M::SPEC.refuses_any() {
        check_names(M::SPEC, text, strict)?;
    }
    serde_json::from_str(text).map_err(|error| explain(M::SPEC, text, &error))
}

/// The rules about names, without decoding: refused parameters, and with `strict` unknown and repeated ones.
pub fn check_names(spec: &MethodSpec, text: &str, strict: bool) -> Result<(), RpcError> {
    let repeated = json::walk_keys(
        text,
        strict,
        |name| match spec.param(name) {
            Some(param) if param.rule == Rule::Refused => Ok(Walk::Look),
            Some(_) => Ok(Walk::Skip),
            None if strict => Err(RpcError::invalid_params(
                spec.name,
                format_args!(
                    "at root: unexpected property '{}'",
                    crate::error::echo(name)
                ),
            )),
            None => Ok(Walk::Skip),
        },
        |name, asks| {
            if asks == Asks::Something {
                Err(RpcError::unsupported(name))
            } else {
                Ok(())
            }
        },
    )?;
    match repeated {
        Some(name) => Err(RpcError::invalid_params(
            spec.name,
            format_args!(
                "at root: property '{}' is given twice",
                crate::error::echo(&name)
            ),
        )),
        None => Ok(()),
    }
}

/// The slow path of a refusal: says where and what, in the words that clients of the protocol know.
#[cold]
fn explain(spec: &MethodSpec, text: &str, error: &serde_json::Error) -> RpcError {
    let problem = match json::parse_strict(text.as_bytes()) {
        Ok(value) => validate::problems((spec.params_schema)().as_value(), &value),
        Err(strict) => Some(format!("at root: {strict}")),
    };
    // The schema and the types agree (a test sees to that); if they ever do not, the parser's words remain.
    RpcError::invalid_params(
        spec.name,
        problem.unwrap_or_else(|| format!("at root: {error}")),
    )
}

/// Declares the methods of a family: marker types with their [`Method`] and the list `SPECS`.
///
/// ```ignore
/// methods! {
///     /// Send a user message to a session and start a run.
///     ChatSend = "chat.send", Operator(Write), Command, (ChatSendParams) -> ChatSendResult;
/// }
/// ```
/// Words after the result: `hidden` (not advertised), `ours` (no OpenClaw method of this name).
#[macro_export]
macro_rules! methods {
    ($(
        $(#[doc = $doc:literal])+
        $marker:ident = $name:literal, $access:ident $(($scope:ident))?, $class:ident,
        ($params:ty) -> $result:ty $(, $flag:ident)*;
    )*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug)]
            pub struct $marker;

            impl $crate::method::Method for $marker {
                const NAME: &'static str = $name;
                const DOC: &'static str = concat!($($doc),+).trim_ascii();
                const ACCESS: $crate::method::Access =
                    $crate::method::Access::$access $(($crate::scope::Scope::$scope))?;
                const CLASS: $crate::method::Class = $crate::method::Class::$class;
                type Params = $params;
                type Result = $result;
                const SPEC: &'static $crate::method::MethodSpec = &$crate::method::MethodSpec {
                    name: $name,
                    doc: concat!($($doc),+).trim_ascii(),
                    access: $crate::method::Access::$access $(($crate::scope::Scope::$scope))?,
                    class: $crate::method::Class::$class,
                    params: <$params as $crate::method::Params>::PARAMS,
                    params_schema: $crate::method::schema_of::<$params>,
                    result_schema: $crate::method::schema_of::<$result>,
                    advertised: !$crate::methods!(@has hidden $($flag)*),
                    published: !$crate::methods!(@has ours $($flag)*),
                };
            }
        )*

        /// The methods of this family.
        pub const SPECS: &[&$crate::method::MethodSpec] =
            &[$( <$marker as $crate::method::Method>::SPEC, )*];
    };
    (@has $want:ident) => { false };
    (@has hidden hidden $($rest:ident)*) => { true };
    (@has ours ours $($rest:ident)*) => { true };
    (@has $want:ident $other:ident $($rest:ident)*) => { $crate::methods!(@has $want $($rest)*) };
}

/// Declares a parameter struct and its table of published names.
///
/// ```ignore
/// params! {
///     /// Parameters of `chat.abort`.
///     ChatAbortParams {
///         required {
///             /// The session.
///             "sessionKey" session_key: NonEmpty,
///         }
///         optional { … }            // fields become Option<T>
///         ignored { "x": "why" }
///         refused { "y": "why" }
///     }
/// }
/// ```
#[macro_export]
macro_rules! params {
    (
        $(#[$meta:meta])*
        $name:ident {
            required { $( $(#[doc = $rdoc:literal])+ $rwire:literal $rfield:ident: $rty:ty, )* }
            optional { $( $(#[doc = $odoc:literal])+ $owire:literal $ofield:ident: $oty:ty, )* }
            ignored { $( $iname:literal: $iwhy:literal, )* }
            refused { $( $xname:literal: $xwhy:literal, )* }
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub struct $name {
            $(
                $(#[doc = $rdoc])+
                #[serde(rename = $rwire)]
                pub $rfield: $rty,
            )*
            $(
                $(#[doc = $odoc])+
                #[serde(rename = $owire, default, skip_serializing_if = "Option::is_none")]
                pub $ofield: Option<$oty>,
            )*
        }

        impl $crate::method::Params for $name {
            const PARAMS: &'static [$crate::method::ParamSpec] = &[
                $( $crate::method::ParamSpec {
                    name: $rwire,
                    rule: $crate::method::Rule::Honoured,
                    doc: concat!($($rdoc),+).trim_ascii(),
                }, )*
                $( $crate::method::ParamSpec {
                    name: $owire,
                    rule: $crate::method::Rule::Honoured,
                    doc: concat!($($odoc),+).trim_ascii(),
                }, )*
                $( $crate::method::ParamSpec { name: $iname, rule: $crate::method::Rule::Ignored, doc: $iwhy }, )*
                $( $crate::method::ParamSpec { name: $xname, rule: $crate::method::Rule::Refused, doc: $xwhy }, )*
            ];
        }
    };
}
