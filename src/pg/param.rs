//! Parameters of statements. Each carries its type, so that the server has nothing to infer.

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

/// A value for `$1`, with its type.
pub struct Param {
    value: Box<dyn ToSql + Send + Sync>,
    kind: Type,
}

impl Param {
    /// A value as a Postgres type that it can be written as.
    pub fn new(value: impl ToSql + Send + Sync + 'static, kind: Type) -> Self {
        Self {
            value: Box::new(value),
            kind,
        }
    }

    /// As the driver takes it.
    pub(super) fn borrowed(&self) -> (&(dyn ToSql + Sync), Type) {
        (self.value.as_ref(), self.kind.clone())
    }

    /// A document that is JSON already.
    #[must_use]
    pub fn json(text: Vec<u8>) -> Self {
        Self::new(RawJson(text), Type::JSONB)
    }
}

/// JSON as it stands, for `jsonb`.
#[derive(Debug)]
struct RawJson(Vec<u8>);

impl ToSql for RawJson {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // The version of the binary form, which is the text.
        out.put_u8(1);
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }

    to_sql_checked!();
}

macro_rules! params {
    ($($rust:ty => $kind:ident),+ $(,)?) => {
        $(impl From<$rust> for Param {
            fn from(value: $rust) -> Self {
                Self::new(value, Type::$kind)
            }
        })+
    };
}

params! {
    bool => BOOL, i32 => INT4, i64 => INT8, Option<i64> => INT8, Vec<i64> => INT8_ARRAY, Vec<Option<i64>> => INT8_ARRAY,
    String => TEXT, &'static str => TEXT, Option<String> => TEXT, Vec<String> => TEXT_ARRAY,
    Vec<Option<String>> => TEXT_ARRAY, Uuid => UUID, Option<Uuid> => UUID, Vec<Uuid> => UUID_ARRAY,
    serde_json::Value => JSONB,
}
