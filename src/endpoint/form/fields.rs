//! The texts of a form as the object that they would be in JSON, for the same reader: a number, a boolean or a list is read
//! where the object has one. Pure.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{FormPart, base_name};
use crate::endpoint::field_error::FieldError;
use crate::error::Refusal;

/// Reads an object of all the parts.
pub(super) fn read<T: DeserializeOwned>(parts: &[FormPart]) -> Result<T, Refusal> {
    let mut fields: Vec<FormField<'_>> = Vec::new();
    for part in parts {
        let name = base_name(&part.name);
        let is_list = name != part.name;
        match fields.iter_mut().find(|field| field.name == name) {
            Some(field) => field.values.push(&part.data),
            None => fields.push(FormField {
                name,
                values: vec![&part.data],
                is_list,
            }),
        }
    }
    let object = FormObject {
        fields: fields.iter(),
        value: None,
    };
    T::deserialize(object).map_err(|error| FieldError::of_text(&error.what, error.path))
}

/// All parts of one name.
struct FormField<'a> {
    name: &'a str,
    values: Vec<&'a [u8]>,
    /// Its name says so.
    is_list: bool,
}

/// What is wrong with a field.
#[derive(Debug)]
struct TextError {
    path: String,
    what: String,
}

impl TextError {
    fn at(self, name: &str) -> Self {
        Self {
            path: name.to_owned(),
            ..self
        }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for TextError {}

impl Error for TextError {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self {
            path: String::new(),
            what: what.to_string(),
        }
    }
}

/// The fields as members of an object.
struct FormObject<'a> {
    fields: std::slice::Iter<'a, FormField<'a>>,
    value: Option<&'a FormField<'a>>,
}

impl<'de> Deserializer<'de> for FormObject<'de> {
    type Error = TextError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for FormObject<'de> {
    type Error = TextError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, TextError> {
        self.value = self.fields.next();
        let name = self
            .value
            .map(|field| BorrowedStrDeserializer::new(field.name));
        name.map(|name| seed.deserialize(name)).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TextError> {
        let Some(field) = self.value.take() else {
            return Err(TextError::custom("must be a text"));
        };
        let read = seed.deserialize(TextValue {
            values: &field.values,
            is_list: field.is_list,
        });
        read.map_err(|error| error.at(field.name))
    }
}

/// The value of a field.
#[derive(Clone, Copy)]
struct TextValue<'a> {
    values: &'a [&'a [u8]],
    is_list: bool,
}

impl<'a> TextValue<'a> {
    /// The one text that it is.
    fn text(self) -> Result<&'a str, TextError> {
        let [value] = self.values else {
            return Err(TextError::custom("must be given only once"));
        };
        std::str::from_utf8(value).map_err(|_| TextError::custom("must be text in UTF-8"))
    }
}

/// Reads the text as what the visitor expects, or says that it is another.
macro_rules! parsed {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
            let text = self.text()?;
            match text.parse() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(TextError::invalid_type(Unexpected::Other("a text"), &visitor)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for TextValue<'de> {
    type Error = TextError;

    /// Whatever it is: of a member that nobody knows.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        match self.values {
            [value] if !self.is_list => visitor.visit_str(&String::from_utf8_lossy(value)),
            _ => self.deserialize_seq(visitor),
        }
    }

    parsed! {
        deserialize_bool visit_bool
        deserialize_i32 visit_i32
        deserialize_i64 visit_i64
        deserialize_u32 visit_u32
        deserialize_u64 visit_u64
        deserialize_f64 visit_f64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    /// A text that is there is there, also if it is empty.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        let one = |value: &'de &'de [u8]| TextValue {
            values: std::slice::from_ref(value),
            is_list: false,
        };
        visitor.visit_seq(SeqDeserializer::new(self.values.iter().map(one)))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TextError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct map struct enum identifier
    }
}

impl<'de> IntoDeserializer<'de, TextError> for TextValue<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
