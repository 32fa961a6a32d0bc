import Foundation
import Supabase
import SwiftUI
import Tollgate

let supabase = SupabaseClient(supabaseURL: URL(string: "https://your-project.supabase.co")!, supabaseKey: "sb_publishable_…")

let tollgate = TollgateClient(URL(string: "https://api.example.com")!) { wanted in
    try await wanted == .current ? supabase.auth.session.accessToken : supabase.auth.refreshSession().accessToken
}

@main
struct ChatApp: App {
    var body: some Scene {
        WindowGroup { ChatView(tollgate: tollgate) }
    }
}
