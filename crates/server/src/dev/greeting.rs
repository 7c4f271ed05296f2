//! What a newcomer is told when everything runs.

use super::DevError;
use super::keys::Keys;
use serde_json::json;

/// The two users of the page.
pub(super) const ADA: &str = "aaaaaaaa-0000-4000-8000-000000000001";
pub(super) const BEN: &str = "bbbbbbbb-0000-4000-8000-000000000002";

/// Address and keys.
#[derive(Clone)]
pub(super) struct Greeting {
    pub(super) url: String,
    pub(super) anon_key: String,
    pub(super) service_key: String,
    pub(super) ada_key: String,
    pub(super) ben_key: String,
    jwt_secret: String,
    database_url: String,
}

impl Greeting {
    pub(super) fn new(port: u16, keys: &Keys, database_url: &str) -> Result<Self, DevError> {
        Ok(Self {
            url: format!("http://localhost:{port}"),
            anon_key: keys.key("anon", None)?,
            service_key: keys.key("service_role", None)?,
            ada_key: keys.key("authenticated", Some(ADA))?,
            ben_key: keys.key("authenticated", Some(BEN))?,
            jwt_secret: keys.jwt_secret.clone(),
            database_url: database_url.to_owned(),
        })
    }

    /// On the standard output, for people or for programs.
    pub(super) fn print(&self, as_json: bool) {
        let Self {
            url,
            anon_key,
            service_key,
            jwt_secret,
            database_url,
            ..
        } = self;
        if as_json {
            let line = json!({
                "url": url, "anon_key": anon_key, "service_key": service_key, "jwt_secret": jwt_secret,
                "database_url": database_url,
            });
            println!("{line}");
            return;
        }
        println!(
            "
  Walcast is ready. Open {url} and type: two users see rows arrive live.

  URL          {url}
  Inspector    {url}/inspector
  anon key     {anon_key}
  service key  {service_key}
  Postgres     {database_url}

  In an application:

    import {{ createClient }} from '@supabase/supabase-js'
    const supabase = createClient('{url}', '{anon_key}')
    supabase.channel('room')
      .on('postgres_changes', {{ event: 'INSERT', schema: 'public', table: 'messages', filter: 'room_id=eq.1' }}, console.log)
      .subscribe(console.log)

  Ctrl-C ends everything; the data stay for the next start.
"
        );
    }
}
