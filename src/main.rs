fn main() {
    let mut args = std::env::args().skip(1);
    let cmd = args.next().unwrap();
    let sources = tollgate::config::Sources::from_process(None);
    let config = match tollgate::config::Config::load(&sources) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let rt = tokio::runtime::Runtime::new().unwrap();
    let r = match cmd.as_str() {
        "serve" => rt.block_on(tollgate::cli::serve::run(config, sources)),
        "usage" => tollgate::cli::usage::run(
            &config,
            &tollgate::cli::usage::Question { requests: true, json: true, user_id: None, since: None },
        ),
        "standin" => rt.block_on(async {
            let l = tokio::net::TcpListener::bind("127.0.0.1:9999").await.unwrap();
            tollgate::standin::serve(l, std::future::pending()).await.map_err(|e| e.to_string())
        }),
        "token" => {
            let c = tollgate::auth::MintClaims {
                user_id: args.next().unwrap().parse().unwrap(),
                plan: None,
                email: None,
                expires_in: std::time::Duration::from_secs(3600),
                issuer: &config.auth.issuer,
            };
            println!(
                "{}",
                tollgate::auth::mint(
                    config.auth.jwt_secret.as_ref().unwrap(),
                    c,
                    tollgate::clock::Clock::system().now()
                )
                .unwrap()
            );
            Ok(())
        }
        _ => unreachable!(),
    };
    if let Err(e) = r {
        eprintln!("error: {e}");
        std::process::exit(1)
    }
}
