//! The rows of `database.md 2.10`, with texts as a walsender prints them.

use crate::{built_in, written};
use std::sync::Arc;
use walcast_replication::json::{Field, Type};

#[test]
fn each_built_in_type_has_its_json_form() {
    for (type_name, text, json) in [
        ("int2", "-32768", "-32768"),
        ("int4", "2147483647", "2147483647"),
        ("int8", "9223372036854775807", "9223372036854775807"),
        ("int8", "-9223372036854775808", "-9223372036854775808"),
        ("numeric", "5.00", "5.00"),
        ("numeric", "-0.50", "-0.50"),
        (
            "numeric",
            "123456789012345678901234567890.1200",
            "123456789012345678901234567890.1200",
        ),
        ("numeric", "0.00000000000000000001", "0.00000000000000000001"),
        ("float4", "1.1", "1.1"),
        ("float8", "2.25e-05", "2.25e-05"),
        ("float8", "1e+100", "1e+100"),
        ("float8", "1.7976931348623157e+308", "1.7976931348623157e+308"),
        ("float8", "-0", "0"),
        ("float4", "NaN", "null"),
        ("float8", "Infinity", "null"),
        ("float8", "-Infinity", "null"),
        ("numeric", "NaN", "null"),
        ("numeric", "Infinity", "null"),
        ("bool", "t", "true"),
        ("bool", "f", "false"),
        ("text", "text ü☃😀 \"q\" \\ back", r#""text ü☃😀 \"q\" \\ back""#),
        ("text", "line\nbreak\ttab\u{1}", r#""line\nbreak\ttab\u0001""#),
        ("text", "", r#""""#),
        ("text", "{1,2}", r#""{1,2}""#),
        ("varchar", "vc", r#""vc""#),
        ("name", "nm", r#""nm""#),
        ("char", "x", r#""x""#),
        ("xml", r#"<a b="1">x</a>"#, r#""<a b=\"1\">x</a>""#),
        // The true value, not its first character (database.md 12).
        ("bpchar", "ab   ", r#""ab   ""#),
        ("_bpchar", r#"{"ab ","c  ",NULL}"#, r#"["ab ","c  ",null]"#),
        ("bit", "1011", r#""1011""#),
        ("varbit", "10110", r#""10110""#),
        ("bytea", "\\x0102ff", r#""0102ff""#),
        ("bytea", "\\x", r#""""#),
        ("_bytea", r#"{"\\x01","\\xff00"}"#, r#"["\\x01","\\xff00"]"#),
        ("date", "2024-02-03", r#""2024-02-03""#),
        ("date", "infinity", r#""infinity""#),
        ("date", "0044-03-15 BC", r#""0044-03-15 BC""#),
        ("time", "12:34:56.789", r#""12:34:56.789""#),
        ("time", "24:00:00", r#""24:00:00""#),
        ("timetz", "12:34:56+02", r#""12:34:56+02""#),
        (
            "timestamp",
            "2024-02-03 04:05:06.123456",
            r#""2024-02-03T04:05:06.123456""#,
        ),
        ("timestamp", "99999-01-01 00:00:00", r#""99999-01-01T00:00:00""#),
        (
            "timestamp",
            "0044-03-15 10:00:00 BC",
            r#""0044-03-15T10:00:00 BC""#,
        ),
        ("timestamp", "-infinity", r#""-infinity""#),
        (
            "timestamptz",
            "2024-02-03 02:05:06.1+00",
            r#""2024-02-03T02:05:06.1+00:00""#,
        ),
        (
            "timestamptz",
            "2024-02-03 02:05:06-03:30",
            r#""2024-02-03T02:05:06-03:30""#,
        ),
        (
            "timestamptz",
            "1800-01-01 00:19:32+00:19:32",
            r#""1800-01-01T00:19:32+00:19:32""#,
        ),
        (
            "timestamptz",
            "0044-03-15 10:00:00+00 BC",
            r#""0044-03-15T10:00:00+00:00 BC""#,
        ),
        ("timestamptz", "infinity", r#""infinity""#),
        (
            "interval",
            "1 year 2 days 03:04:05",
            r#""1 year 2 days 03:04:05""#,
        ),
        (
            "uuid",
            "11111111-1111-4111-8111-111111111111",
            r#""11111111-1111-4111-8111-111111111111""#,
        ),
        ("inet", "10.1.2.3/24", r#""10.1.2.3/24""#),
        ("cidr", "10.0.0.0/8", r#""10.0.0.0/8""#),
        ("macaddr", "08:00:2b:01:02:03", r#""08:00:2b:01:02:03""#),
        ("pg_lsn", "16/B374D848", r#""16/B374D848""#),
        ("tid", "(0,1)", r#""(0,1)""#),
        ("xid8", "18446744073709551615", r#""18446744073709551615""#),
        ("money", "-$1,234.50", r#""-$1,234.50""#),
        ("point", "(1,2.5)", r#""(1,2.5)""#),
        ("circle", "<(1,2),3>", r#""<(1,2),3>""#),
        ("int4range", "[1,5)", r#""[1,5)""#),
        (
            "tstzrange",
            r#"["2024-01-01 00:00:00+00",)"#,
            r#""[\"2024-01-01 00:00:00+00\",)""#,
        ),
        ("int4multirange", "{[1,3),[5,7)}", r#""{[1,3),[5,7)}""#),
        ("tsvector", "'cat':1 'fat':2", r#""'cat':1 'fat':2""#),
        ("tsquery", "'fat' & !'cat'", r#""'fat' & !'cat'""#),
        ("regclass", "todos", r#""todos""#),
        ("jsonpath", "$.\"a\"[*]", r#""$.\"a\"[*]""#),
        ("oid", "4294967295", r#""4294967295""#),
        (
            "json",
            r#"{"b": 1,  "a": [1.10, null], "a": 2}"#,
            r#"{"b":1,"a":[1.10,null],"a":2}"#,
        ),
        ("json", " [1 , 2 ] ", "[1,2]"),
        (
            "jsonb",
            r#"{"b": {"c": []}, "z": 1.10}"#,
            r#"{"b":{"c":[]},"z":1.10}"#,
        ),
        ("jsonb", "null", "null"),
        ("json", r#""str""#, r#""str""#),
        ("int2vector", "1 2 -3", "[1,2,-3]"),
        ("int2vector", "", "[]"),
        ("oidvector", "1 2", r#"["1","2"]"#),
        ("_int2vector", r#"{"1 2",3}"#, "[[1,2],[3]]"),
    ] {
        assert_eq!(
            written(&built_in(type_name), text).as_deref(),
            Ok(json),
            "{type_name} {text}"
        );
    }
}

#[test]
fn arrays_nest_by_dimension_and_lose_their_lower_bounds() {
    for (type_name, text, json) in [
        ("_int4", "{1,NULL,3}", "[1,null,3]"),
        ("_int4", "{}", "[]"),
        ("_int4", "{{1,2},{3,NULL}}", "[[1,2],[3,null]]"),
        ("_int4", "{{{1},{2}},{{3},{4}}}", "[[[1],[2]],[[3],[4]]]"),
        ("_int4", "[0:1]={7,8}", "[7,8]"),
        ("_int4", "[-1:0][5:6]={{1,2},{3,4}}", "[[1,2],[3,4]]"),
        ("_int4", "{{{{{{1}}}}}}", "[[[[[[1]]]]]]"),
        (
            "_text",
            r#"{a,"b c",NULL,"","NULL",null}"#,
            r#"["a","b c",null,"","NULL","null"]"#,
        ),
        (
            "_text",
            r#"{{a,"{b}"},{"c,d","e\"f\\g\\"}}"#,
            r#"[["a","{b}"],["c,d","e\"f\\g\\"]]"#,
        ),
        ("_text", r#"{"\ü\☃",\ü}"#, ""),
        ("_text", "{ü,☃,😀}", r#"["ü","☃","😀"]"#),
        ("_bool", "{t,f,NULL}", "[true,false,null]"),
        (
            "_float8",
            "{1.5,NaN,-Infinity,Infinity,-0}",
            r#"[1.5,"NaN","-Infinity","Infinity",0]"#,
        ),
        ("_numeric", "{1.10,NaN}", r#"[1.10,"NaN"]"#),
        (
            "_jsonb",
            r#"{"{\"a\": 1}",[1],"null","\"s\"",1}"#,
            r#"[{"a":1},[1],null,"s",1]"#,
        ),
        (
            "_timestamp",
            r#"{"2024-01-01 10:00:00"}"#,
            r#"["2024-01-01T10:00:00"]"#,
        ),
        (
            "_timestamptz",
            r#"{"2024-01-01 00:00:00+00",infinity}"#,
            r#"["2024-01-01T00:00:00+00:00","infinity"]"#,
        ),
        (
            "_box",
            "{(1,1),(0,0);(2,2),(1,1)}",
            r#"["(1,1),(0,0)","(2,2),(1,1)"]"#,
        ),
        ("_point", r#"{"(1,2)","(3,4)"}"#, r#"["(1,2)","(3,4)"]"#),
        ("_oid", "{1,2}", r#"["1","2"]"#),
    ] {
        let array = written(&built_in(type_name), text);
        if json.is_empty() {
            assert!(array.is_err(), "{type_name} {text}");
        } else {
            assert_eq!(array.as_deref(), Ok(json), "{type_name} {text}");
        }
    }
}

fn composite(fields: &[(&str, Arc<Type>)]) -> Arc<Type> {
    Arc::new(Type::Composite {
        fields: fields
            .iter()
            .map(|(name, kind)| Field::new(name, Arc::clone(kind)))
            .collect(),
    })
}

#[test]
fn composites_become_objects_with_every_attribute() {
    let address = composite(&[("street", built_in("text")), ("zip", built_in("int4"))]);
    let many = Arc::new(Type::Array {
        element: Arc::clone(&address),
        delimiter: b',',
    });
    let person = composite(&[("home", Arc::clone(&address)), ("others", Arc::clone(&many))]);
    let odd = composite(&[("a \"b\"\\", built_in("text"))]);
    let values = composite(&[
        ("a", built_in("float8")),
        ("b", built_in("bytea")),
        ("j", built_in("json")),
    ]);
    for (kind, text, json) in [
        (
            &address,
            r#"("Main, St ""x""",12345)"#,
            r#"{"street":"Main, St \"x\"","zip":12345}"#,
        ),
        (&address, "(,)", r#"{"street":null,"zip":null}"#),
        (&address, r#"("",1)"#, r#"{"street":"","zip":1}"#),
        (&address, r#"("a\\b()",)"#, r#"{"street":"a\\b()","zip":null}"#),
        (
            &many,
            r#"{"(a,1)",NULL,"(,2)"}"#,
            r#"[{"street":"a","zip":1},null,{"street":null,"zip":2}]"#,
        ),
        (
            &person,
            r#"("(""x """"y"""""",1)","{""(\\""a b\\"",2)""}")"#,
            r#"{"home":{"street":"x \"y\"","zip":1},"others":[{"street":"a b","zip":2}]}"#,
        ),
        (&odd, "(x)", r#"{"a \"b\"\\":"x"}"#),
        (&odd, "()", r#"{"a \"b\"\\":null}"#),
        (&composite(&[]), "()", "{}"),
        (
            &values,
            r#"(NaN,"\\x01","{""a"" :1}")"#,
            r#"{"a":"NaN","b":"\\x01","j":{"a":1}}"#,
        ),
    ] {
        assert_eq!(written(kind, text).as_deref(), Ok(json), "{text}");
    }
}

#[test]
fn hstore_is_an_object_of_strings_and_nulls() {
    for (text, json) in [
        ("", "{}"),
        (r#""a"=>"1", "b"=>NULL"#, r#"{"a":"1","b":null}"#),
        (
            r#""c\"\\"=>"d, e=>NULL", ""=>"""#,
            r#"{"c\"\\":"d, e=>NULL","":""}"#,
        ),
    ] {
        assert_eq!(written(&Type::Hstore, text).as_deref(), Ok(json), "{text}");
    }
}
