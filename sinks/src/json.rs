//! A row as the members of a JSON object, for the sinks that speak JSON.

use waterwheel_config::schema::Schema;
use waterwheel_config::value::{Row, Value, write_json_string};

/// Writes `"name":value,...` for every column in the schema's order, without braces, on one line.
pub(crate) fn write_row(schema: &Schema, row: &Row, out: &mut String) {
    for (index, column) in schema.columns.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_json_string(&column.name, out);
        out.push(':');
        match row.values().get(index) {
            // Strings hold no bare line breaks in JSON: such a one is only white space.
            Some(Value::Json(json)) if json.contains(['\n', '\r']) => {
                out.extend(json.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
            }
            Some(value) => value.write_json(out),
            None => out.push_str("null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waterwheel_config::schema::{Column, Finality};
    use waterwheel_config::value::ColumnType;

    #[test]
    fn a_row_is_one_line_of_members() {
        let columns = [
            ("t", ColumnType::Text),
            ("b", ColumnType::Bigint),
            ("d", ColumnType::Double),
            ("f", ColumnType::Boolean),
            ("at \"x\"", ColumnType::Timestamp),
            ("j", ColumnType::Json),
            ("n", ColumnType::Text),
            ("missing", ColumnType::Text),
        ];
        let schema = Schema {
            columns: columns.iter().map(|(name, kind)| Column::new(*name, *kind)).collect(),
            key: vec![0],
            finality: Finality::Immediate,
            append_only: true,
            time: None,
        };
        let row = Row::from(vec![
            Value::text("a\"\n"),
            Value::Bigint(i64::MIN),
            Value::double(0.5),
            Value::Boolean(true),
            Value::Timestamp(1_500_000),
            Value::Json("{\n  \"x\": \"\\n\"\r\n}".into()),
            Value::Null,
        ]);
        let mut out = String::new();
        write_row(&schema, &row, &mut out);
        let expected = concat!(
            r#""t":"a\"\n","b":-9223372036854775808,"d":0.5,"f":true,"#,
            r#""at \"x\"":"1970-01-01T00:00:01.5Z","j":{   "x": "\n"  },"n":null,"missing":null"#,
        );
        assert_eq!(out, expected);
        let parsed: serde_json::Value = serde_json::from_str(&format!("{{{out}}}")).expect("JSON");
        assert_eq!(parsed["j"]["x"], "\n");
    }
}
