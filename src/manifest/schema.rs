//! The JSON Schema of `baton.yaml`, generated from the types that read it.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::Value;

use super::shape::Fleet;

/// The JSON Schema (draft 2020-12) of `baton.yaml`, for editors and for people. It is checked in as
/// `schema/baton.schema.json`.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().for_deserialize().with_transform(RecursiveTransform(NoNull));
    settings.into_generator().into_root_schema_for::<Fleet>().to_value()
}

/// A key that is there has a value: what is optional may be left out, not be null.
#[derive(Clone)]
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(words)) = object.get_mut("enum") {
            words.retain(|word| !word.is_null());
        }
        // The lines of a doc comment are no lines of a text.
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = text.replace('\n', " ");
        }
        let is_null = |branch: &Value| branch.get("type").is_some_and(|name| name == "null");
        if let Some(Value::Array(branches)) = object.get_mut("anyOf") {
            branches.retain(|branch| !is_null(branch));
            if let [Value::Object(only)] = branches.as_slice() {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only);
            }
        }
        // `null` is what an option has as its default; a reader would take it for something to write.
        if object.get("default").is_some_and(Value::is_null) {
            object.remove("default");
        }
    }
}
