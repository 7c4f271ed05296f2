//! Changes of tables.

use super::Instead::{Before, Behind, Says, SaysTo, Without};
use super::{Difference, deliberate, either_way};

/// Decision 4.
const WARNED: &str = "A subscription that cannot deliver is confirmed with warnings that say why.";

/// What a wildcard over the recorded tables is warned of, on the channel (decision 38).
macro_rules! wildcard_warnings {
    ($channel:literal) => {
        concat!(
            r#""channel":""#,
            $channel,
            r#"","warnings":["role \"anon\" may not SELECT from public.g2_cols, so its changes arrive without data: grant select on public.g2_cols to anon","#,
            r#""table public.g2_nopk_full has no primary key, so INSERT and UPDATE arrive without data: alter table public.g2_nopk_full add column id bigint generated always as identity primary key","#,
            r#""row level security is enabled on public.g2_rls_full and no policy lets role \"anon\" select from it, so every INSERT and UPDATE is hidden; create one, with the condition that says which rows in place of true: create policy \"anon reads\" on public.g2_rls_full for select to anon using (true)","#,
            r#""table public.nopk has no primary key, so INSERT and UPDATE arrive without data: alter table public.nopk add column id bigint generated always as identity primary key","#,
            r#""row level security is enabled on public.rls_todos and no policy lets role \"anon\" select from it, so every INSERT and UPDATE is hidden; create one, with the condition that says which rows in place of true: create policy \"anon reads\" on public.rls_todos for select to anon using (true)"]}"#,
        )
    };
}

/// Decision 21.
const REASONED: &str = "The refusal of a table that is not offered says why it is not.";

/// Decision 6.
const WILDCARD: &str = "Only `*` is a wildcard in the names of schemas and tables.";

const CUT: &str =
    "A char(n), a bit(n) and a \"char\" come whole; the recorded server cuts them to one character.";

pub(super) const CHANGES: &[Difference] = &[
    either_way(
        &["pg-two-channels"],
        "Which of two channels on one socket hears a change first is not promised.",
        &[Before(
            "client-1",
            r#""realtime:g2-pg-two-channels","postgres_changes""#,
            r#""realtime:g2-pg-two-channelsb","postgres_changes""#,
        )],
    ),
    deliberate(
        &["pg-filter-in-100"],
        "A filter is repeated to the client on one line, however long it is (decision 7).",
        &[
            Says(r#"[\n  {\"i\", \"in\",\n   \""#, r#"[{\"i\", \"in\", \""#),
            Says(r#"}\",\n   false}\n]"#, r#"}\", false}]"#),
        ],
    ),
    deliberate(
        &["pg-error-like-varchar"],
        "`like` and its kin take varchar columns too (decision 6).",
        &[Says(
            r#""message":"Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: [event: *, schema: public, table: g2_filt, filters: [{\"v\", \"like\", \"a%\", false}], select: nil]. Exception: ERROR P0001 (raise_exception) operator like requires a text-compatible column type, got character varying","status":"error""#,
            r#""message":"Subscribed to PostgreSQL","status":"ok""#,
        )],
    ),
    deliberate(
        &["pg-error-role"],
        WARNED,
        &[SaysTo(
            "client-2",
            r#""channel":"g2-pg-error-role"}"#,
            r#""channel":"g2-pg-error-role","warnings":["role \"g2_nothing\" may not SELECT from public.todos, so its changes arrive without data: grant select on public.todos to g2_nothing"]}"#,
        )],
    ),
    deliberate(
        &["pg-wild-schema-only"],
        WARNED,
        &[Says(
            r#""channel":"g2-pg-wild-schema-only"}"#,
            wildcard_warnings!("g2-pg-wild-schema-only"),
        )],
    ),
    deliberate(
        &["pg-wild-table-star"],
        WARNED,
        &[Says(
            r#""channel":"g2-pg-wild-table-star"}"#,
            wildcard_warnings!("g2-pg-wild-table-star"),
        )],
    ),
    deliberate(
        &["pg-wild-schema-star-table-star"],
        WARNED,
        &[Says(
            r#""channel":"g2-pg-wild-schema-star-table-star"}"#,
            wildcard_warnings!("g2-pg-wild-schema-star-table-star"),
        )],
    ),
    deliberate(
        &["pg-wild-table-star-only"],
        WARNED,
        &[Says(
            r#""channel":"g2-pg-wild-table-star-only"}"#,
            wildcard_warnings!("g2-pg-wild-table-star-only"),
        )],
    ),
    deliberate(
        &["pg-nopk"],
        WARNED,
        &[Says(
            r#""channel":"g2-pg-nopk"}"#,
            r#""channel":"g2-pg-nopk","warnings":["table public.nopk has no primary key, so INSERT and UPDATE arrive without data: alter table public.nopk add column id bigint generated always as identity primary key"]}"#,
        )],
    ),
    deliberate(
        &["pg-nopk-full"],
        WARNED,
        &[Says(
            r#""channel":"g2-pg-nopk-full"}"#,
            r#""channel":"g2-pg-nopk-full","warnings":["table public.g2_nopk_full has no primary key, so INSERT and UPDATE arrive without data: alter table public.g2_nopk_full add column id bigint generated always as identity primary key"]}"#,
        )],
    ),
    deliberate(
        &["pg-column-rights"],
        WARNED,
        &[
            SaysTo(
                "client-2",
                r#""channel":"g2-pg-column-rights"}"#,
                r#""channel":"g2-pg-column-rights","warnings":["role \"g2_nokey\" may not SELECT the primary key column id of public.g2_cols, so INSERT and UPDATE arrive without data: grant select (id) on public.g2_cols to g2_nokey"]}"#,
            ),
            SaysTo(
                "client-3",
                r#""channel":"g2-pg-column-rights"}"#,
                r#""channel":"g2-pg-column-rights","warnings":["role \"g2_nothing\" may not SELECT from public.g2_cols, so its changes arrive without data: grant select on public.g2_cols to g2_nothing"]}"#,
            ),
        ],
    ),
    deliberate(
        &["join-legacy"],
        REASONED,
        &[Says(
            r#""channel":"g2-join-legacy"}"#,
            r#""channel":"g2-join-legacy","warnings":["publication supabase_realtime has no table of schema g2-join-legacy; add the tables whose changes are wanted"]}"#,
        )],
    ),
    deliberate(
        &["pg-error-unknown-table"],
        REASONED,
        &[Says(
            r#""channel":"g2-pg-error-unknown-table"}"#,
            r#""channel":"g2-pg-error-unknown-table","warnings":["there is no table public.no_such_table; names are taken letter by letter, upper and lower case differ"]}"#,
        )],
    ),
    deliberate(
        &["pg-error-one-of-two"],
        REASONED,
        &[Says(
            r#""channel":"g2-pg-error-one-of-two"}"#,
            r#""channel":"g2-pg-error-one-of-two","warnings":["there is no table public.no_such_table; names are taken letter by letter, upper and lower case differ"]}"#,
        )],
    ),
    deliberate(
        &["pg-error-v1.v1"],
        REASONED,
        &[Says(
            r#""channel":"g2-pg-error-v1-v1"}"#,
            r#""channel":"g2-pg-error-v1-v1","warnings":["there is no table public.no_such_table; names are taken letter by letter, upper and lower case differ"]}"#,
        )],
    ),
    deliberate(
        &["pg-error-case-table"],
        REASONED,
        &[Says(
            r#""channel":"g2-pg-error-case-table"}"#,
            r#""channel":"g2-pg-error-case-table","warnings":["there is no table public.Todos; schema \"public\", table \"todos\" is published and is spelt nearly so"]}"#,
        )],
    ),
    deliberate(
        &["pg-first-subscriber"],
        REASONED,
        &[Says(
            r#""channel":"g2-pg-first-subscriberb"}"#,
            r#""channel":"g2-pg-first-subscriberb","warnings":["there is no table public.nosuch; names are taken letter by letter, upper and lower case differ"]}"#,
        )],
    ),
    deliberate(
        &["pg-like-wildcard"],
        REASONED,
        &[SaysTo(
            "client-2",
            r#""channel":"g2-pg-like-wildcardp"}"#,
            r#""channel":"g2-pg-like-wildcardp","warnings":["there is no table public.my%table; names are taken letter by letter, upper and lower case differ"]}"#,
        )],
    ),
    deliberate(
        &["pg-quoted.v1"],
        WARNED,
        &[Says(
            r#""channel":"g2-pg-quoted-v1"}"#,
            r#""channel":"g2-pg-quoted-v1","warnings":["the filter needs Mixed Col of g.Odd Name, which a deleted row does not carry, so no DELETE passes it: alter table g.\"Odd Name\" replica identity full","the filter needs sp ace of g.Odd Name, which a deleted row does not carry, so no DELETE passes it: alter table g.\"Odd Name\" replica identity full"]}"#,
        )],
    ),
    deliberate(
        &["pg-error-like-varchar"],
        WARNED,
        &[Says(
            r#""channel":"g2-pg-error-like-varchar"}"#,
            r#""channel":"g2-pg-error-like-varchar","warnings":["the filter needs v of public.g2_filt, which a deleted row does not carry, so no DELETE passes it: alter table public.g2_filt replica identity full"]}"#,
        )],
    ),
    deliberate(
        &["pg-types-all", "pg-types-all.v1", "pg-types-full-all.v1"],
        CUT,
        &[
            Says(r#""c_bit": "1""#, r#""c_bit": "1011""#),
            Says(r#""c_char": "a""#, r#""c_char": "ab   ""#),
        ],
    ),
    deliberate(
        &["pg-types-specials"],
        CUT,
        &[
            Says(r#""c_char": " ""#, r#""c_char": "     ""#),
            Says(r#""c_char": "a""#, r#""c_char": "abcde""#),
        ],
    ),
    deliberate(
        &["pg-types2"],
        CUT,
        &[Says(
            r#""c_char_arr": ["a", "c"]"#,
            r#""c_char_arr": ["ab ", "c  "]"#,
        )],
    ),
    deliberate(
        &["pg-big-edge"],
        "The limit is on the values of the row, without the description of its columns.",
        &[
            Says(
                r#""record":{"n": 1048200, "id": 4, "small": "small"},"columns":[{"name": "id", "type": "int4"}, {"name": "small", "type": "text"}, {"name": "n", "type": "int4"}],"errors":["Error 413: Payload Too Large"]"#,
                r#""record":{"n": 1048200, "id": 4, "small": "small"},"columns":[{"name": "id", "type": "int4"}, {"name": "small", "type": "text"}, {"name": "n", "type": "int4"}],"errors":null"#,
            ),
            Says(
                r#""record":{"n": 1048300, "id": 5, "small": "small"},"columns":[{"name": "id", "type": "int4"}, {"name": "small", "type": "text"}, {"name": "n", "type": "int4"}],"errors":["Error 413: Payload Too Large"]"#,
                r#""record":{"n": 1048300, "id": 5, "small": "small"},"columns":[{"name": "id", "type": "int4"}, {"name": "small", "type": "text"}, {"name": "n", "type": "int4"}],"errors":null"#,
            ),
        ],
    ),
    deliberate(
        &["pg-like-wildcard"],
        WILDCARD,
        &[
            Without("client-1", r#""table":"myxtable""#),
            Without("client-2", r#""postgres_changes",{"data""#),
            SaysTo(
                "client-2",
                r#""message":"Subscribed to PostgreSQL","status":"ok""#,
                r#""message":"Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: [event: *, schema: public, table: my%table, filters: [], select: nil]","status":"error""#,
            ),
        ],
    ),
    either_way(
        &["pg-recreate-table"],
        "A change whose own transaction drops the table may still be delivered, if the table is known by then.",
        &[Behind(
            "drop table g2_del",
            "client-1",
            r#"[null,null,"{topic}","postgres_changes",{"ids":[2655694],"data":{"schema":"public","table":"g2_del","type":"INSERT","commit_timestamp":"2026-11-21T11:11:52.530Z","columns":[{"name":"id","type":"int4"},{"name":"v","type":"text"}],"record":{"id":2,"v":"y"},"errors":null}}]"#,
        )],
    ),
    deliberate(
        &["pg-rls-vanished"],
        "A row is judged as it was committed: one that is deleted a moment later is shown, one that becomes visible a moment later is not shown as it was before (decision 1).",
        &[
            Behind(
                "values (1, 'x'",
                "client-1",
                r#"[null,null,"{topic}","postgres_changes",{"ids":[117237900],"data":{"schema":"public","table":"rls_todos","type":"INSERT","commit_timestamp":"2026-11-21T11:11:52.713Z","columns":[{"name":"id","type":"int8"},{"name":"details","type":"text"},{"name":"user_id","type":"uuid"}],"record":{"id":1,"details":"x","user_id":"11111111-1111-4111-8111-111111111111"},"errors":null}}]"#,
            ),
            Behind(
                "values (1, 'x'",
                "client-2",
                r#"[null,null,"{topic}","postgres_changes",{"ids":[117237900],"data":{"schema":"public","table":"rls_todos","type":"INSERT","commit_timestamp":"2026-11-21T11:11:52.713Z","columns":[{"name":"id","type":"int8"},{"name":"details","type":"text"},{"name":"user_id","type":"uuid"}],"record":{"id":1,"details":"x","user_id":"11111111-1111-4111-8111-111111111111"},"errors":null}}]"#,
            ),
            Without("client-1", r#""details": "hidden""#),
        ],
    ),
];
