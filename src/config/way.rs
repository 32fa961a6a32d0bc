//! The way to an upstream: a proxy, authorities of a private network, headers of a gateway.
//!
//! Errors never repeat a value: a proxy's address has a password, and a header may be a key.

use std::path::Path;
use std::sync::Arc;

use http::Uri;
use http::header::{self, HeaderName, HeaderValue};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::SecretString;

use super::ProxyServer;
use super::findings::{Invalid, Problem};
use super::reader::{Section, secret};
use super::source::RawSettings;
use super::urls::Address;

/// The variables that name a proxy for https, in the order in which they count.
const HTTPS_PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
/// The hosts that are reached without it.
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];
const PROXY: &str = "http://proxy.internal:3128";

/// Headers that we write, or that would change how a request is framed.
const OURS: [HeaderName; 14] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::USER_AGENT,
];

/// `proxy`, else curl's variables for https. An empty `proxy` turns the variables off.
pub(super) fn proxy(
    section: &Section<'_>,
    base: Option<&Address>,
    raw: &RawSettings,
) -> Result<Option<ProxyServer>, Invalid> {
    let said = section.maybe("proxy", PROXY, |text| match text.trim() {
        "" => Ok(None),
        text => server(text).map(Some),
    })?;
    if let Some(said) = said {
        return Ok(said);
    }
    let variable = |names: [&'static str; 2]| {
        let mut found = names
            .into_iter()
            .filter_map(|name| Some((name, raw.variable(name)?)));
        found.find(|(_, (text, _))| !text.trim().is_empty())
    };
    let Some((name, (text, origin))) = base
        .filter(|base| base.is_https)
        .and_then(|_| variable(HTTPS_PROXY))
    else {
        return Ok(None);
    };
    let server = server(text.trim()).map_err(|what| section.findings.error(name, origin, what))?;
    let except = variable(NO_PROXY).map_or("", |(_, (text, _))| text);
    Ok(base
        .is_some_and(|base| !is_excepted(base, except))
        .then_some(server))
}

/// Whether `NO_PROXY` names the host: as it is, by a domain above it, or by a network; `*` is every host.
fn is_excepted(base: &Address, except: &str) -> bool {
    let parts = || {
        except
            .split(|letter: char| letter == ',' || letter.is_whitespace())
            .filter(|part| !part.is_empty())
    };
    // The library's own `*` is for names only.
    if parts().any(|part| part == "*") {
        return true;
    }
    let list = parts()
        .map(|part| part.trim_end_matches('.'))
        .collect::<Vec<_>>()
        .join(",");
    let matcher = Matcher::builder().all(PROXY).no(list).build();
    let to = format!("https://{}/", base.host.trim_end_matches('.'));
    to.parse::<Uri>()
        .is_ok_and(|to| matcher.intercept(&to).is_none())
}

/// An HTTP proxy: `http://user:password@host:port`.
fn server(text: &str) -> Result<ProxyServer, Problem> {
    let wrong = |problem: &str| {
        Problem::new(
            problem,
            format!("write it like {PROXY} or http://user:password@host:port"),
        )
    };
    let text = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri: Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong(
            "is no plain HTTP proxy: a way through https or SOCKS proxies is not known here",
        ));
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        return Err(wrong("has a path or a query"));
    }
    let authority = uri
        .authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default();
    let place = authority
        .rsplit_once('@')
        .map_or(authority, |(_, place)| place);
    let wrote_port = place
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    if uri.host().is_none_or(str::is_empty) || (wrote_port && uri.port_u16().is_none()) {
        return Err(wrong("has no host, or a port that is none"));
    }
    let anywhere = Uri::from_static("http://upstream.invalid/");
    let found = Matcher::builder()
        .all(text)
        .build()
        .intercept(&anywhere)
        .ok_or_else(|| wrong("is not a URL"))?;
    let authorization = found.basic_auth().cloned();
    Ok(ProxyServer {
        address: found.uri().clone(),
        authorization,
    })
}

/// `ca_file`: the certificates in a PEM file.
pub(super) fn authorities(
    section: &Section<'_>,
) -> Result<Option<Arc<[CertificateDer<'static>]>>, Invalid> {
    section.maybe("ca_file", "internal-ca.pem", |path| {
        let fix =
            "give the path of a PEM file with the certificate of the authority (BEGIN CERTIFICATE)";
        let cannot = |why: String| Problem::new(format!("`{path}` cannot be used: {why}"), fix);
        let found = CertificateDer::pem_file_iter(Path::new(path))
            .map_err(|error| cannot(error.to_string()))?;
        let found: Vec<_> = found
            .collect::<Result<_, _>>()
            .map_err(|error| cannot(error.to_string()))?;
        if found.is_empty() {
            return Err(cannot("it has no certificate".to_owned()));
        }
        let mut roots = RootCertStore::empty();
        found
            .iter()
            .try_for_each(|one| roots.add(one.clone()))
            .map_err(|error| cannot(error.to_string()))?;
        Ok(found.into())
    })
}

/// `headers`: names and values.
pub(super) fn headers(section: &Section<'_>) -> Result<Vec<(HeaderName, SecretString)>, Invalid> {
    if section.get("headers").is_none() {
        return Ok(Vec::new());
    }
    let table = section.section("headers")?;
    let headers: Vec<_> = table.keys().map(|key| read_header(&table, key)).collect();
    headers.into_iter().collect()
}

fn read_header(table: &Section<'_>, key: &str) -> Result<(HeaderName, SecretString), Invalid> {
    let value = table.parsed(key, "…", |text| {
        let value = secret(text)?;
        let fits = HeaderValue::from_str(text).is_ok() && text.is_ascii() && text.trim() == text;
        let fix = "write it on one line, in ASCII, without spaces around it";
        if fits {
            Ok(value)
        } else {
            Err(Problem::new("cannot stand in a header", fix))
        }
    });
    let name = HeaderName::from_bytes(key.as_bytes());
    let name =
        name.map_err(|_| Problem::new("is no name of a header", "use letters, digits and -"));
    let name = table.note(key, name)?;
    let is_ours = OURS.contains(&name)
        || matches!(
            name.as_str(),
            "x-client-request-id" | "traceparent" | "keep-alive"
        );
    if is_ours || name.as_str().starts_with("proxy-") {
        return Err(table.wrong(
            key,
            Problem::new("is a header that every request has from us", "take it out"),
        ));
    }
    Ok((name, value?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_plain_one_and_its_password_is_not_shown() {
        let good = server("http://us%40er:pass%3Aword@proxy.internal:3128")
            .ok()
            .unwrap();
        assert_eq!(
            good.address,
            Uri::from_static("http://proxy.internal:3128/")
        );
        // us@er:pass:word
        assert_eq!(
            good.authorization.as_ref().unwrap(),
            "Basic dXNAZXI6cGFzczp3b3Jk"
        );
        assert!(!format!("{good:?}").contains("dXNA"), "{good:?}");
        assert_eq!(
            server("proxy:3128").ok().unwrap().address,
            Uri::from_static("http://proxy:3128/")
        );
        assert!(server("http://[::1]:3128/").is_ok());
        for wrong in [
            "https://p:1",
            "socks5://p:1",
            "http://",
            "http://p:99999",
            "http://p:1/x",
            "http://p:",
            "http://p?x",
            "a b",
        ] {
            assert!(server(wrong).is_err(), "{wrong}");
        }
        let told = server("socks5://user:canary@p:1").err().unwrap();
        assert!(!format!("{}{}", told.problem, told.fix).contains("canary"));
    }
}
