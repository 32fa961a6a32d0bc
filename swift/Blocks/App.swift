// What an app has around the blocks of the package's pages.

import Foundation
import Supabase
import Tollgate

let supabase = SupabaseClient(supabaseURL: URL(string: "https://your-project.supabase.co")!, supabaseKey: "sb_publishable_…")
@MainActor var shown = ""
@MainActor var paywall: TollgateError?
@MainActor var problem: TollgateError?
@MainActor var showSignIn = false
@MainActor func retry(in _: Int) {}
