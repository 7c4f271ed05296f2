//! The types that every Postgres has under the same oid, so that the usual column needs no query.
//!
//! These are the base, range and multirange types of `pg_type.dat` with an oid below 10000, which stay the same in all
//! major versions. A type that is missing here is looked up like a user's.

use super::Type;
use super::catalog::Known;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// By oid, with the array types.
pub(super) static BUILT_IN: LazyLock<HashMap<u32, Known>> = LazyLock::new(|| {
    let mut known = HashMap::with_capacity(2 * TABLE.len());
    for (oid, name, array_oid, kind) in TABLE {
        let levels = if matches!(*oid, INT2VECTOR | OIDVECTOR) {
            2
        } else {
            1
        };
        let kind = Arc::new(match *oid {
            INT2VECTOR => Type::Vector {
                element: Arc::new(Type::Integer),
            },
            // Like an oid, the element is a string.
            OIDVECTOR => Type::Vector {
                element: Arc::new(Type::Text),
            },
            _ => kind.clone(),
        });
        if *array_oid != 0 {
            let delimiter = if *oid == BOX { b';' } else { b',' };
            let array = Type::Array {
                element: Arc::clone(&kind),
                delimiter,
            };
            known.insert(
                *array_oid,
                Known {
                    name: format!("_{name}").into(),
                    kind: Arc::new(array),
                    levels: levels + 1,
                },
            );
        }
        known.insert(
            *oid,
            Known {
                name: (*name).into(),
                kind,
                levels,
            },
        );
    }
    known
});

const INT2VECTOR: u32 = 22;
const OIDVECTOR: u32 = 30;
const BOX: u32 = 603;

/// oid, name, oid of the array type (0 if there is none), and how a value is written.
#[rustfmt::skip]
const TABLE: &[(u32, &str, u32, Type)] = &[
    (16, "bool", 1000, Type::Bool),
    (17, "bytea", 1001, Type::Bytea),
    (18, "char", 1002, Type::Text),
    (19, "name", 1003, Type::Text),
    (20, "int8", 1016, Type::BigInteger),
    (21, "int2", 1005, Type::Integer),
    (22, "int2vector", 1006, Type::Text),
    (23, "int4", 1007, Type::Integer),
    (24, "regproc", 1008, Type::Text),
    (25, "text", 1009, Type::Text),
    (26, "oid", 1028, Type::Text),
    (27, "tid", 1010, Type::Text),
    (28, "xid", 1011, Type::Text),
    (29, "cid", 1012, Type::Text),
    (30, "oidvector", 1013, Type::Text),
    (114, "json", 199, Type::Json),
    (142, "xml", 143, Type::Text),
    (194, "pg_node_tree", 0, Type::Text),
    (600, "point", 1017, Type::Text),
    (601, "lseg", 1018, Type::Text),
    (602, "path", 1019, Type::Text),
    (603, "box", 1020, Type::Text),
    (604, "polygon", 1027, Type::Text),
    (628, "line", 629, Type::Text),
    (650, "cidr", 651, Type::Text),
    (700, "float4", 1021, Type::Float),
    (701, "float8", 1022, Type::Float),
    (718, "circle", 719, Type::Text),
    (774, "macaddr8", 775, Type::Text),
    (790, "money", 791, Type::Text),
    (829, "macaddr", 1040, Type::Text),
    (869, "inet", 1041, Type::Text),
    (1033, "aclitem", 1034, Type::Text),
    (1042, "bpchar", 1014, Type::Text),
    (1043, "varchar", 1015, Type::Text),
    (1082, "date", 1182, Type::Text),
    (1083, "time", 1183, Type::Text),
    (1114, "timestamp", 1115, Type::Timestamp),
    (1184, "timestamptz", 1185, Type::TimestampTz),
    (1186, "interval", 1187, Type::Text),
    (1266, "timetz", 1270, Type::Text),
    (1560, "bit", 1561, Type::Text),
    (1562, "varbit", 1563, Type::Text),
    (1700, "numeric", 1231, Type::Numeric),
    (1790, "refcursor", 2201, Type::Text),
    (2202, "regprocedure", 2207, Type::Text),
    (2203, "regoper", 2208, Type::Text),
    (2204, "regoperator", 2209, Type::Text),
    (2205, "regclass", 2210, Type::Text),
    (2206, "regtype", 2211, Type::Text),
    (2950, "uuid", 2951, Type::Text),
    (2970, "txid_snapshot", 2949, Type::Text),
    (3220, "pg_lsn", 3221, Type::Text),
    (3361, "pg_ndistinct", 0, Type::Text),
    (3402, "pg_dependencies", 0, Type::Text),
    (3614, "tsvector", 3643, Type::Text),
    (3615, "tsquery", 3645, Type::Text),
    (3642, "gtsvector", 3644, Type::Text),
    (3734, "regconfig", 3735, Type::Text),
    (3769, "regdictionary", 3770, Type::Text),
    (3802, "jsonb", 3807, Type::Json),
    (3904, "int4range", 3905, Type::Text),
    (3906, "numrange", 3907, Type::Text),
    (3908, "tsrange", 3909, Type::Text),
    (3910, "tstzrange", 3911, Type::Text),
    (3912, "daterange", 3913, Type::Text),
    (3926, "int8range", 3927, Type::Text),
    (4072, "jsonpath", 4073, Type::Text),
    (4089, "regnamespace", 4090, Type::Text),
    (4096, "regrole", 4097, Type::Text),
    (4191, "regcollation", 4192, Type::Text),
    (4451, "int4multirange", 6150, Type::Text),
    (4532, "nummultirange", 6151, Type::Text),
    (4533, "tsmultirange", 6152, Type::Text),
    (4534, "tstzmultirange", 6153, Type::Text),
    (4535, "datemultirange", 6155, Type::Text),
    (4536, "int8multirange", 6157, Type::Text),
    (4600, "pg_brin_bloom_summary", 0, Type::Text),
    (4601, "pg_brin_minmax_multi_summary", 0, Type::Text),
    (5017, "pg_mcv_list", 0, Type::Text),
    (5038, "pg_snapshot", 5039, Type::Text),
    (5069, "xid8", 271, Type::Text),
];
